"""Writes what of ``terraform/`` follows from its own files: the tables of inputs and outputs in the READMEs.

It reads files of the form that ``terraform fmt`` gives them, line by line; it is no parser of the language. A README
takes part by its marks, and a folder without a README stands in MODULES.md.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TERRAFORM = Path(__file__).resolve().parent
BEGIN = "<!-- tables begin -->"
END = "<!-- tables end -->"
MODULES = TERRAFORM / "MODULES.md"


@dataclass(frozen=True)
class Block:
    """A ``variable`` or an ``output``: its name, and the text of its arguments by name."""

    name: str
    arguments: dict[str, str]

    @property
    def description(self) -> str:
        """In one line of Markdown."""
        text = self.arguments.get("description", "")
        if text.startswith("<<-"):
            text = " ".join(text.splitlines()[1:-1])
        else:
            text = text.strip('"').replace('\\"', '"').replace("\\\\", "\\")
        return " ".join(text.split()).replace("|", "\\|")


def blocks(text: str, kind: str) -> Iterator[Block]:
    """The blocks of a kind in a file's text, in their order."""
    for name, body in re.findall(rf'^{kind} "([^"]+)" \{{\n(.*?)^\}}', text, flags=re.DOTALL | re.MULTILINE):
        yield Block(name, arguments(body))


def arguments(body: str) -> dict[str, str]:
    """Arguments of a block's body: what begins at two spaces ends before the next line that does."""
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(body).splitlines():
        started = re.match(r"(\w+)\s+= (.*)", line)
        if started:
            name = started[1]
            found[name] = started[2]
        elif re.match(r"\w+ \{", line) or line.startswith("#"):
            name = ""
        elif name:
            found[name] += f"\n{line}"
    return {key: value.strip() for key, value in found.items()}


def one_line(text: str) -> str:
    """A type or a default as it stands in a table: without the alignment, comments and line breaks of the file."""
    joined = re.sub(r"\s+", " ", re.sub(r"#.*", "", text)).strip()
    joined = re.sub(r"\{ ", "{", re.sub(r" \}", "}", joined))
    # In one line an object's attributes have commas between them.
    joined = re.sub(r"([\w)\]\"}]) (\w+ = )", r"\1, \2", joined)
    return joined.replace("|", "\\|")


def table(folder: Path) -> str:
    """Inputs and outputs of a folder, as Markdown."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.tf")))
    lines = []
    variables = list(blocks(text, "variable"))
    if variables:
        lines += ["| input | type | default | meaning |", "|---|---|---|---|"]
        for one in variables:
            default = f"`{one_line(one.arguments['default'])}`" if "default" in one.arguments else "required"
            lines.append(f"| `{one.name}` | `{one_line(one.arguments['type'])}` | {default} | {one.description} |")
        lines.append("")
    outputs = list(blocks(text, "output"))
    if outputs:
        lines += ["| output | meaning |", "|---|---|"]
        lines += [f"| `{one.name}` | {one.description} |" for one in outputs]
    return "\n".join(lines).strip()


def fill(text: str, content: str) -> str:
    """A text with its marked part replaced."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def files() -> dict[Path, str]:
    """What the generated files have to hold."""
    found = {}
    left = []
    for folder in sorted({path.parent for path in TERRAFORM.rglob("*.tf") if ".terraform" not in path.parts}):
        readme = folder / "README.md"
        if readme.exists() and BEGIN in readme.read_text(encoding="utf-8"):
            found[readme] = fill(readme.read_text(encoding="utf-8"), table(folder))
        else:
            left.append(folder)
    parts = [f"## {folder.relative_to(TERRAFORM)}\n\n{table(folder)}" for folder in left]
    found[MODULES] = (
        "# Inputs and outputs of the modules\n\n"
        "`make chart` writes this file from the modules' own. Modules with a README have theirs there.\n\n"
        + "\n\n".join(parts)
        + "\n"
    )
    return found


def main() -> None:
    """Write them."""
    for path, content in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(TERRAFORM)}", file=sys.stderr)


if __name__ == "__main__":
    main()
