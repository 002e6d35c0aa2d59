# Over 400 lines: one package of a user, written and trained once for all tests.
"""A user's own attention, model and task, named in a config as ``module:Class``.

The classes are those of the documentation: its blocks that begin with ``# mine.py``.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import adversarial
import sensitivity
from attnzoo import cli, pretrained
from attnzoo.attention import Attention
from attnzoo.attention.contract import Site
from attnzoo.config import external
from attnzoo.config.experiment import ExperimentConfig
from attnzoo.config.help import help_text
from attnzoo.config.loader import dump, load
from attnzoo.config.mesh import MeshConfig
from attnzoo.config.schema import fields_of
from attnzoo.errors import UserError
from attnzoo.models import GPT2
from attnzoo.testing import ModuleSizes, check
from attnzoo.training.loop import train
from attnzoo.training.parameters import describe, path_of
from attnzoo.training.placement import Placement
from attnzoo.training.run import load_run

TRAINING = "{steps: 2, batch_size: 4, max_length: 9, evaluate_every: 1, tensorboard: false}"
TEXT = "{kind: text, train: [text], validation_share: 0.3}"
HEADS = '{kind: "mine:Cosine", num_heads: 2}'
GPT2_ = f"{{kind: gpt2, attention: {HEADS}, dim: 8, layers: 1, max_length: 9}}"
# Name -> task, data, tokenizer, model, and the kind of a user's own that it names.
CONFIGS = {
    "attention": ("{kind: causal_lm, context: 7}", TEXT, "char", GPT2_, "mine:Cosine"),
    "cross": (
        "translation",
        "{kind: synthetic, symbols: 5, max_length: 4, train: 30, validation: 6, test: 6}",
        "word",
        f"{{kind: bahdanau, attention: {HEADS}, hidden: 4, embedding: 6, maxout: 5}}",
        "mine:Cosine",
    ),
    "model": (
        "{kind: causal_lm, context: 7}",
        TEXT,
        "char",
        f'{{kind: "mine:Tiny", attention: {HEADS}, dim: 8}}',
        "mine:Tiny",
    ),
    "task": (
        '{kind: "mine:Backwards", context: 7}',
        TEXT,
        "char",
        "{kind: gpt2, attention: {kind: multi_head, num_heads: 2}, dim: 8, layers: 1}",
        "mine:Backwards",
    ),
}
PAGES = ("guides/attention", "models", "training")
WRONG = """
from typing import Any, Literal

from attnzoo.config.attention import AttentionConfig
from attnzoo.config.fields import config
from attnzoo.config.tasks import CausalLMConfig

class Without: pass

class OtherBase: config_class = CausalLMConfig

class Undecorated:
    class config_class(AttentionConfig): kind: Literal["wrong:Undecorated"] = "wrong:Undecorated"

def holder(kind, default, more=None):
    fields = {"kind": kind} | ({} if more is None else {"more": more})
    made = type("Made", (AttentionConfig,), {"__annotations__": fields, "kind": default})
    return type("Holder", (), {"config_class": config(made)})

OtherKind = holder(Literal["wrong:Other"], "wrong:Other")
NoLiteral = holder(str, "wrong:NoLiteral")
TwoKinds = holder(Literal["wrong:TwoKinds", "wrong:Other"], "wrong:TwoKinds")
Unresolved = holder("Nowhere", "wrong:Unresolved")
OddField = holder(Literal["wrong:OddField"], "wrong:OddField", type("Odd", (), {}))
OddField.config_class.__dataclass_fields__["more"].default = None
"""
CAUSAL = """
from typing import Literal

from attnzoo.config.fields import config
from mine import Cosine, CosineConfig

@config
class CausalConfig(CosineConfig):
    kind: Literal["causal:Causal"] = "causal:Causal"

class Causal(Cosine):
    config_class = CausalConfig
    is_recurrent = True
"""
ERRORS = {
    "no_such_module:X": "ModuleNotFoundError: No module named 'no_such_module'",
    "mine:NoSuch": "AttributeError: module 'mine' has no attribute 'NoSuch'",
    ":X": "ValueError: Empty module name",
    "raises:X": "RuntimeError: one two",
    "exits:X": "SystemExit: 3",
    "syntax:X": "SyntaxError: '(' was never closed",
    "wrong:Without": "Without.config_class is None; wanted a dataclass made with @config",
    "wrong:OtherBase": "wanted a dataclass made with @config from AttentionConfig",
    "wrong:Undecorated": "wanted a dataclass made with @config from AttentionConfig",
    "wrong:OtherKind": 'wanted kind: Literal["wrong:OtherKind"] = "wrong:OtherKind"',
    "wrong:NoLiteral": 'wanted kind: Literal["wrong:NoLiteral"] = "wrong:NoLiteral"',
    "wrong:TwoKinds": 'wanted kind: Literal["wrong:TwoKinds"] = "wrong:TwoKinds"',
    "wrong:Unresolved": "'Nowhere'",
    "wrong:OddField": "PydanticSchemaGenerationError",
}


def snippets(root: Path) -> str:
    """Everything that the documentation says to put into mine.py."""
    pages = [(root / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES]
    found = [re.findall(r"^```python\n(# mine\.py\n.*?)^```$", page, re.M | re.S) for page in pages]
    assert [len(blocks) for blocks in found] == [1, 1, 1]
    return "\n".join(block for blocks in found for block in blocks)


@pytest.fixture(scope="module")
def home(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of a user, with code, data and configs in it."""
    path = tmp_path_factory.mktemp("home")
    text = "the cat sat on the mat .\na dog ran to the red house .\nthe sun was hot on a day .\n"
    files = {"text": text * 3, "mine.py": snippets(root), "wrong.py": WRONG, "causal.py": CAUSAL}
    files |= {"raises.py": "raise RuntimeError('one\\n  two')", "exits.py": "raise SystemExit(3)"}
    files |= {"syntax.py": "x = ("}
    for name, (task, data, tokenizer, model, _) in CONFIGS.items():
        files[f"{name}.yaml"] = (
            f"name: {name}\ntask: {task}\ndata: {data}\ntokenizer: {tokenizer}\nmodel: {model}\n"
            f"training: {TRAINING}\n"
        )
    for name, content in files.items():
        (path / name).write_text(content)
    paths, admitted = list(sys.path), dict(external._admitted)
    with contextlib.chdir(path):
        yield path
    sys.path[:] = paths
    external._admitted.clear()
    external._admitted.update(admitted)
    fields_of.cache_clear()
    forget()


def forget() -> None:
    """Let the modules of the user be imported anew."""
    for name in ("mine", "wrong", "causal"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def untrusted() -> Iterator[None]:
    """Take back what ``--trust-code`` of a command in this process has allowed."""
    token = external._trusted_runs.set(False)
    yield
    external._trusted_runs.reset(token)


@pytest.fixture(scope="module")
def run_of(home: Path) -> Callable[[str], Path]:
    """The run directory of a config, trained for a step and one more when it is first wanted."""

    def trained(name: str) -> Path:
        config = load(ExperimentConfig, f"{name}.yaml")
        if not config.run_directory.exists():
            assert train(load(ExperimentConfig, f"{name}.yaml", ["training.steps=1"])).step == 1
            assert train(config, resume=True).step == 2
        return config.run_directory

    return trained


def as_program(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a command in a process of its own.

    Annotations are not checked there: those of configs name the classes of the zoo alone.
    """
    command = [sys.executable, "-m", "attnzoo.cli", *map(str, arguments)]
    path = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_goes_on_and_is_loaded(
    name: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    run, kind = run_of(name), CONFIGS[name][-1]
    assert kind in (run / "config.yaml").read_text()
    written = load(ExperimentConfig, run / "config.yaml", ["training.steps=2"])
    assert written == load(ExperimentConfig, f"{name}.yaml")
    with pytest.raises(UserError, match="pass --trust-code") as refused:
        load_run(run)
    assert "\n" not in str(refused.value)
    loaded = load_run(run, which="latest", trust_code=True)
    assert loaded.step == 2
    module, _, attribute = kind.partition(":")
    own = (loaded.model, loaded.task, *(part for _, part in nnx.iter_modules(loaded.model)))
    assert any(type(part) is getattr(sys.modules[module], attribute) for part in own)


def test_a_changed_setting_of_it_is_another_run(run_of: Callable[[str], Path]) -> None:
    config = load(
        ExperimentConfig, run_of("attention") / "config.yaml", ["model.attention.num_heads=4"]
    )
    with pytest.raises(UserError, match=r"resume: config\.model\.attention\.num_heads was 2 "):
        train(config, resume=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_its_file(name: str, home: Path, tmp_path: Path) -> None:
    written, again = load(ExperimentConfig, home / f"{name}.yaml"), tmp_path / "again.yaml"
    again.write_text(dump(written))
    assert load(ExperimentConfig, again) == written


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.attention=mine:Cosine", "model.attention.num_heads=2"],
        ["model.attention.num_heads=2", "model.attention=mine:Cosine"],
        ["model.attention={kind: 'mine:Cosine', num_heads: 2}"],
    ],
)
@pytest.mark.parametrize("before", ["dot", '"mine:Cosine"', "{kind: multi_head, window: 3}"])
def test_the_command_line_names_it_too(before: str, overrides: list[str], tmp_path: Path) -> None:
    text = Path("attention.yaml").read_text()
    (tmp_path / "other.yaml").write_text(text.replace(HEADS, before))
    assert load(ExperimentConfig, tmp_path / "other.yaml", overrides) == load(
        ExperimentConfig, "attention.yaml"
    )


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_heads: 2", "heads: 2", "attention.yaml:5:54: model.attention.heads: unknown key"),
        ("num_heads: 2", "num_heads: 0", "model.attention.num_heads: expected int > 0, got the"),
        ("num_heads: 2", "num_heads: x", "model.attention.num_heads: expected int > 0, got the"),
        ("num_heads: 2", "window: 2", "window: unknown key for kind 'mine:Cosine' (it belongs to"),
    ],
)
def test_its_settings_are_checked_as_ours(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "attention.yaml"
    path.write_text(Path("attention.yaml").read_text().replace(old, new))
    with pytest.raises(UserError) as raised:
        load(ExperimentConfig, path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{path}:5:")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_had_is_one_line_and_spoils_nothing(kind: str) -> None:
    with pytest.raises(UserError) as raised:
        load(ExperimentConfig, "attention.yaml", [f"model.attention={{kind: '{kind}'}}"])
    assert f"kind {kind!r}: " in str(raised.value)
    assert ERRORS[kind] in str(raised.value)
    assert "\n" not in str(raised.value)
    load(ExperimentConfig, "attention.yaml")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["mine:Cosine", "mine:Tiny", "mine:Backwards"])
@pytest.mark.parametrize("field", ["model.attention", "model", "task", "data", "tokenizer"])
def test_each_class_has_its_place(field: str, kind: str) -> None:
    own = {"model.attention": "mine:Cosine", "model": "mine:Tiny", "task": "mine:Backwards"}
    path = "task.yaml" if kind == "mine:Backwards" else "attention.yaml"
    if own.get(field) == kind:
        load(ExperimentConfig, path, [f"{field}={kind}"])
        return
    with pytest.raises(UserError) as raised:
        load(ExperimentConfig, path, [f"{field}={kind}"])
    assert kind in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("home")
def test_what_does_not_go_together_names_it() -> None:
    with pytest.raises(
        UserError, match=r"task\.kind=mine:Backwards takes model\.kind=gpt2 or llam"
    ):
        load(ExperimentConfig, "task.yaml", ["model=mine:Tiny"])
    with pytest.raises(UserError, match=r"takes model\.kind=.*mine:Tiny"):
        load(ExperimentConfig, "model.yaml", ["model=bert"])


@pytest.mark.usefixtures("home")
def test_help_tells_of_it_once_it_is_named() -> None:
    load(ExperimentConfig, "attention.yaml")
    said = help_text(ExperimentConfig)
    assert "model.attention=mine:Cosine" in said
    assert "Number of heads; must divide the width of the queries." in said


@pytest.mark.usefixtures("home")
def test_a_decoders_attention_is_refused_in_an_encoder(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        f"name: two\ndata: {CONFIGS['cross'][1]}\ntokenizer: word\n"
        f"model: {{kind: transformer, attention: 'causal:Causal', cross_attention: {HEADS}, "
        f"dim: 8}}\ntraining: {TRAINING}\ndirectory: {tmp_path / 'run'}\n"
    )
    code, said = as_program("train", tmp_path / "two.yaml")
    assert code == 2
    assert "error: model: Causal is causal; an encoder wants another attention" in said
    assert said.count("\n") == 1 + said.count("\n", 0, said.index("error: "))


# Commands and scripts that read the run they are given, with what they want beside it; the others
# read none.
READERS = {
    "train": ["--resume"],
    "plan": ["--no-compile"],
    "translate": [],
    "evaluate": [],
    "align": [],
    "explain": ["words"],
    "predict": ["mine.py"],
    "recommend": [],
    "adversarial": [],
    "sensitivity": [],
    "generate": ["--prompt", "the", "--max-new-tokens", "2"],
    "convert": ["converted"],
    "export": ["--out", "exported", "--platforms", "cpu"],
}
SCRIPTS = {"adversarial": adversarial.main, "sensitivity": sensitivity.main}
OTHERS = {"verify", "data"}


def test_every_command_is_here() -> None:
    assert set(READERS) | OTHERS == {*cli.COMMANDS, *SCRIPTS}


def call(command: str, *arguments: str) -> int:
    if command in SCRIPTS:
        return SCRIPTS[command](arguments)
    return cli.main([command, *arguments])


@pytest.mark.parametrize("command", READERS)
def test_a_command_that_reads_a_run_asks_before_it_imports(
    command: str, run_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("attention")
    forget()
    capsys.readouterr()
    path = run / "config.yaml" if command == "plan" else run
    assert call(command, str(path), *READERS[command]) == 2
    said = capsys.readouterr().err
    assert "kind 'mine:Cosine' is code from outside of attnzoo" in said
    assert said.count("\n") == 1
    assert "mine" not in sys.modules
    with pytest.raises(SystemExit) as ended:
        call(command, "--help")
    assert ended.value.code == 0
    assert "--trust-code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("translate", "cross"), ("align", "cross"), ("evaluate", "cross")),
        *(("generate", "attention"), ("explain", "attention"), ("plan", "attention")),
        *(("evaluate", "model"), ("evaluate", "task"), ("plan", "model"), ("train", "attention")),
    ],
)
def test_trusted_it_works(
    command: str,
    name: str,
    run_of: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(run_of(name), tmp_path / "run")
    path = tmp_path / "run" / ("config.yaml" if command == "plan" else "")
    more = READERS[command]
    if command == "explain":
        more = ["the cat", "--methods", "rollout", "--num-samples", "1"]
    if command == "translate":
        (tmp_path / "lines").write_text("a b\n")
        more = [str(tmp_path / "lines")]
    if (command, name) in (("plan", "model"), ("evaluate", "model")):
        assert as_program(command, path, *more, "--trust-code")[0] == 0
        return
    assert cli.main([command, str(path), *more, "--trust-code"]) == 0, capsys.readouterr().err


def test_an_exported_run_names_no_code(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(run_of("attention")), "--out", str(out), "--platforms", "cpu"]
    assert cli.main(["export", *arguments, "--trust-code"]) == 0
    about = json.loads((out / "export.json").read_text())
    forget()
    exported = importlib.import_module("attnzoo.export.load").Exported(out)
    exported("logits", tokens=np.zeros((1, 7), np.int32))
    assert "mine" not in sys.modules
    assert about["model"] == "gpt2"


def test_a_folder_of_a_model_is_refused_before_it_imports(home: Path, tmp_path: Path) -> None:
    heads = "model.attention={kind: multi_head, num_heads: 2}"
    config = load(ExperimentConfig, home / "attention.yaml", [heads]).model
    pretrained.save_own(GPT2(config, 20, rngs=nnx.Rngs(0)), tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("kind: multi_head", "kind: 'mine:Cosine'"))
    forget()
    with pytest.raises(UserError):
        pretrained.load(tmp_path)
    assert "mine" not in sys.modules


@pytest.fixture
def cosine(home: Path) -> type[Attention]:
    """The class of the documentation."""
    load(ExperimentConfig, home / "attention.yaml")
    return importlib.import_module("mine").Cosine


def test_its_numbers_are_those_computed_by_hand(cosine: Any) -> None:
    """cos((3, 4), (4, 3)) = 24 / 25 and cos((3, 4), (0, 1)) = 4 / 5, both ten times."""
    attention = cosine(2, 1, key_dim=2, rngs=nnx.Rngs(0))
    for projection in (attention.query, attention.key):
        projection.kernel[...] = np.eye(2, dtype=np.float32)
    keys = jax.numpy.asarray([[[4.0, 3.0], [0.0, 1.0]]])
    _, weights = attention(jax.numpy.asarray([[[3.0, 4.0]]]), keys, return_weights=True)
    exp = np.exp([9.6, 8.0])
    np.testing.assert_allclose(weights[0, 0, 0], exp / exp.sum(), rtol=1e-5)


def test_the_kit_accepts_it(cosine: Any) -> None:
    attention = cosine(6, 2, key_dim=6, rngs=nnx.Rngs(0))
    sizes = ModuleSizes(B=2, T=5, S=7, D=6, D2=6, Dv=4)
    check(attention, sizes=sizes)


@pytest.mark.parametrize("scan", [False, True])
def test_its_parameters_have_roles_and_places(scan: bool, home: Path) -> None:
    config: Any = load(
        ExperimentConfig, home / "attention.yaml", [f"model.scan={str(scan).lower()}"]
    )
    model = nnx.eval_shape(lambda: GPT2(config.model, 20, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    places = Placement(MeshConfig(fsdp=2, tensor=2), 4).of_parameters(params)
    roles, specs = {}, {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(params):
        own = path_of(where).rpartition("mechanism/")[2]
        roles[own] = describe(where, leaf.shape).role
    for where, place in jax.tree_util.tree_leaves_with_path(places):
        specs[path_of(where).rpartition("mechanism/")[2]] = tuple(place.spec)
    assert {name: roles[name] for name in ("log_scale", "query/kernel", "key/kernel")} == {
        "log_scale": "vector",
        "query/kernel": "matrix",
        "key/kernel": "matrix",
    }
    layers = (None,) if scan else ()
    assert specs["query/kernel"] == (*layers, "fsdp", "tensor")
    assert all(axis is None for axis in specs["log_scale"])


def test_a_site_fills_it(cosine: Any) -> None:
    site = Site(query_dim=6, key_dim=10, value_dim=4, dropout=0.25)
    made = cosine.from_config(cosine.config_class(num_heads=2), site, rngs=nnx.Rngs(0))
    assert (made.key.kernel.shape, made.num_heads, made.dropout) == ((10, 6), 2, 0.25)
