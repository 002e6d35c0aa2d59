"""Options of `align` that go with some aligners alone."""

import pytest

from attnzoo.cli.align import main, parse
from attnzoo.cli.align_pairs import aligner_config

LANGUAGES = ["--source-language", "en", "--target-language", "ro", "--pairs", "p"]
TOLD = {"source_language": "en", "target_language": "ro"}


def test_languages_reach_the_translators_of_an_aligner() -> None:
    alone = aligner_config(parse(["--aligner", "attention", "run=m", *LANGUAGES]))
    assert TOLD.items() <= vars(alone).items()
    members = "members=[{kind: hmm}, {kind: attention, run: m}]"
    hmm, told = aligner_config(parse(["--aligner", "vote", members, *LANGUAGES])).members
    assert TOLD.items() <= vars(told).items()
    assert not TOLD.keys() & vars(hmm).keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aligner", "hmm", *LANGUAGES], "--source-language goes with --aligner attention"),
        (
            ["model", "--pairs", "p"],
            "--pairs goes with --aligner, not with a run; wanted --source FILE --target FILE",
        ),
        (["model", "--gold", "g"], "--gold goes with --aligner, not with a run; wanted --links"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
