"""`pretrained_fields.py [--check]`: compare the fields of a config.json with those of transformers.

attnzoo says of every field of a config.json that it is followed, without effect, or refused
(`attnzoo/pretrained/fields.py`). This needs transformers, prints what is in none of these groups or
has another default there, and writes the names and defaults of transformers' classes to
tests/pretrained/fields.json (not with --check), so that the tests need no transformers.

Exit code 0: the groups are complete; 1: they are not.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from attnzoo.pretrained import FAMILIES
from attnzoo.pretrained.fields import Fields

FILE = Path(__file__).parents[1] / "tests" / "pretrained" / "fields.json"


def of_transformers() -> dict[str, Any]:
    """Return the version of transformers, and the fields of its config classes by model type.

    ``defaults`` are the declared fields; ``derived`` are names that only a written file has;
    ``generation`` are the fields of a generation_config.json.
    """
    import transformers

    families = {}
    for kind in groups():
        made = transformers.CONFIG_MAPPING[kind]
        defaults = {field.name: field.default for field in dataclasses.fields(made)}
        derived = set(made().to_dict()) - set(defaults) - {"model_type"}
        families[kind] = {
            "defaults": defaults,
            "derived": sorted(derived),
            "aliases": made.attribute_map,
        }
    generation = sorted(transformers.GenerationConfig().__dict__)
    return {
        "version": transformers.__version__,
        "families": families,
        "generation": [name for name in generation if name != "_original_object_hash"],
    }


def groups() -> dict[str, Fields]:
    """Return the fields of every family and of the objects within them, by model type."""
    found = {kind: family.fields for kind, family in FAMILIES.items()}
    for family in FAMILIES.values():
        found |= dict(family.fields.parts.values())
    return found


def problems(theirs: dict[str, Any]) -> list[str]:
    """Return a line for each field of transformers that attnzoo does not know as it is there."""
    found = []
    for kind, family in theirs["families"].items():
        fields, defaults = groups()[kind], family["defaults"]
        known = [*fields.followed, *fields.without_effect, *fields.refused, *fields.aliases]
        found += [f"{kind}: {name} is in several groups" for name in known if known.count(name) > 1]
        for name in (*defaults, *family["derived"], *family["aliases"]):
            if name not in known:
                found.append(f"{kind}: {name} is in no group")
        if fields.aliases != family["aliases"]:
            found.append(f"{kind}: aliases are {fields.aliases}, wanted {family['aliases']}")
        for name, default in defaults.items():
            ours = fields.followed.get(name)
            if ours is not None and ours.default != default:
                found.append(f"{kind}: {name} is {ours.default!r} by default, wanted {default!r}")
            if name in fields.refused and default not in fields.refused[name]:
                found.append(f"{kind}: {name} is refused at its default, {default!r}")
    return found


def main() -> int:
    """Exit code 0: the groups are complete; 1: they are not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    theirs = of_transformers()
    if not arguments.check:
        FILE.write_text(json.dumps(theirs, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    found = problems(theirs)
    print("\n".join(found) or f"complete for transformers {theirs['version']}")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
