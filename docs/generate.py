"""Pages of the site that are generated when it is built, so that nothing in them is typed twice."""

from __future__ import annotations

import ast
import dataclasses
import functools
import html
import importlib
import inspect
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from omegaconf import OmegaConf

from covidnet.base.errors import as_given
from covidnet.cli import COMMANDS
from covidnet.launch.command import config_dir, prepare_hydra
from covidnet.launch.schema import SCHEMA, Setting
from covidnet.report.summary import SweepSummary

PROJECT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "experiments/README.md": "project/experiments.md",
    "notebooks/README.md": "project/notebooks.md",
}
"""Pages of the site whose text lies beside the code, where a reader of the code looks for it."""
_LINK = re.compile(r"(?P<before>!?\[(?P<text>[^\]\[]*)\])\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)
_MARKER = "<!-- generated -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API into the navigation."""
    pages = api_pages()
    for section in config.nav or []:
        for title, entries in section.items():
            if title == "Reference":
                entries.append({"Python API": list(pages)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for source, uri in OUTSIDE.items():
        text = (PROJECT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=text))
    for uri, text in api_pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and point links between files of the project to pages of the site."""
    uri = page.file.src_uri
    if uri in _GENERATED:
        if markdown.count(_MARKER) != 1:
            raise PluginError(f"docs/{uri}: must have the line {_MARKER} once")
        markdown = markdown.replace(_MARKER, _GENERATED[uri]())
    return linked(markdown, uri)


def linked(markdown: str, uri: str) -> str:
    """The text of a page with links that hold in the site.

    Args:
        markdown: with links relative to the file that the text comes from.
        uri: of the page.

    Raises:
        PluginError: a link leads to a file that the project does not have.
    """
    sources = {page: source for source, page in OUTSIDE.items()}
    here = posixpath.dirname(sources.get(uri, f"docs/{uri}"))

    def moved(link: re.Match[str]) -> str:
        target = link["target"]
        if not target or ":" in target:
            return link[0]
        source = posixpath.normpath(posixpath.join(here, target))
        there = source.removeprefix("docs/") if source.startswith("docs/") else OUTSIDE.get(source)
        if there is not None:
            return f"{link['before']}({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{link['anchor'] or ''})"
        if not (PROJECT / source).exists():
            raise PluginError(f"{sources.get(uri, f'docs/{uri}')}: the link to {target} leads nowhere")
        return link["text"]  # code, a notebook: part of the checkout, not of the site

    # Code keeps its brackets.
    kept = _FENCE.findall(markdown)
    parts = [_LINK.sub(moved, part) for part in _FENCE.split(markdown)]
    return "".join(part + fence for part, fence in zip(parts, [*kept, ""], strict=True))


def public_names() -> Iterator[tuple[str, str, str]]:
    """Package, name and defining module of all that the packages hand on, by their ``__init__.pyi``."""
    for stub in sorted((PROJECT / "covidnet").glob("*/__init__.pyi")):
        package = f"covidnet.{stub.parent.name}"
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield package, alias.name, f"{package}.{node.module}"


def api_pages() -> dict[str, str]:
    """A page for each package with its public names, and one that lists the packages.

    Raises:
        PluginError: a public name has no docstring.
    """
    pages: dict[str, str] = {}
    index = ["# Python API", "", "What each package hands on. Everything else may change without notice.", ""]
    for package, name, module in public_names():
        uri = f"reference/api/{package.rpartition('.')[2]}.md"
        if uri not in pages:
            summary = (inspect.getdoc(importlib.import_module(package)) or "").partition("\n")[0]
            pages[uri] = f"# {package}\n\n{summary}\n"
            index += [f"## [{package}]({posixpath.basename(uri)})", "", summary, ""]
        thing = getattr(importlib.import_module(module), name)
        document = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        if not document:
            raise PluginError(f"{module}.{name}: is public and has no docstring")
        pages[uri] += f"\n::: {module}.{name}\n"
        index.append(f"- [`{name}`]({posixpath.basename(uri)}#{module}.{name}): {_first_sentence(thing)}")
    return {"reference/api/index.md": "\n".join(index) + "\n", **pages}


def settings() -> str:
    """Every setting of every command: what it must be, its default and its meaning, from the schema and ``conf/``."""
    everywhere = [name for name in SCHEMA["config"] if all(name in schema for schema in SCHEMA.values())]
    parts = [
        "## Every command",
        "",
        "Accepted everywhere, even where they have no effect.",
        "",
        *_table("config", everywhere),
    ]
    parts += _own("config", everywhere)
    groups: dict[str, list[str]] = {}
    for name in SCHEMA["config"]:
        if "." in name and name not in everywhere:
            groups.setdefault(name.partition(".")[0], []).append(name)
    for group, names in groups.items():
        takers = [_of(command) for command, schema in SCHEMA.items() if set(names) & set(schema)]
        parts += [f"## {group}", "", f"Taken by {', '.join(takers)}.", "", *_options(group), *_table("config", names)]
    parts += ["More arguments of the class: `+trainer.NAME=VALUE`.", ""]
    for command in SCHEMA:
        parts += _own(command, everywhere) if command != "config" else []
    parts += ["## experiment", "", "Taken by `covidnet train`.", "", *_options("experiment")]
    told = {*groups, "experiment", "wandb"}
    others = sorted(file.name for file in config_dir().iterdir() if file.is_dir() and file.name in _choices())
    for group in [*(name for name in others if name not in told), "hydra/launcher", "hydra/sweeper"]:
        parts += [f"## {group}", "", "Taken by `covidnet train`.", "", *_options(group)]
        for file in sorted((config_dir() / group).glob("*.yaml")):
            parts += _entries(file, group)
    return "\n".join(parts)


def _own(command: str, everywhere: Sequence[str]) -> list[str]:
    """The settings of one command that are in no group."""
    also = SCHEMA["config"] if command == "features" else {}
    own = [name for name in SCHEMA[command] if "." not in name or name not in SCHEMA["config"]]
    names = [name for name in own if name not in everywhere and name not in also]
    return [f"## {_of(command, plain=True)}", "", *_table(command, names)] if names else []


def _of(command: str, plain: bool = False) -> str:
    name = f"covidnet {'train' if command == 'config' else command}"
    return name if plain else f"`{name}`"


def _table(command: str, names: Sequence[str]) -> list[str]:
    rows = ["| setting | must be | default | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        setting = SCHEMA[command][name]
        values = _values(command, name)
        meaning = _plain(_meaning(setting, _comments().get(f"{command}:{name}") or _comments().get(name, "")))
        if "" not in values:  # not a setting of the group's default option
            meaning = f"With {', '.join(f'`{option}`' for option in values)}. {meaning}"
        allowed = setting.allowed
        must = _plain(allowed) if isinstance(allowed, str) else ", ".join(_code(value) for value in allowed)
        rows.append(f"| `{name}` | {must} | {_code(next(iter(values.values())))} | {meaning} |")
    return [*rows, ""]


def _values(command: str, name: str) -> dict[str, object]:
    """The setting's default under "", or its defaults with the options of its group that have it."""
    usual = _at(_composed(command), name)
    if usual is not _ABSENT:
        return {"": usual}
    group = name.partition(".")[0]
    options = [file.stem for file in sorted((config_dir() / group).glob("*.yaml"))]
    found = {f"{group}={option}": _at(_composed(f"{group}/{option}"), name) for option in options}
    return {option: value for option, value in found.items() if value is not _ABSENT}


@functools.cache
def _composed(file: str) -> Any:
    return OmegaConf.to_container(_with_hydra(file))


_ABSENT = object()


def _at(tree: Any, name: str) -> object:
    for part in name.split("."):
        tree = tree.get(part, _ABSENT) if isinstance(tree, Mapping) else _ABSENT
    return tree


def _options(group: str) -> list[str]:
    """A table of a group's files, with what each says of itself."""
    rows = ["| option | |", "| --- | --- |"]
    for file in sorted((config_dir() / group).glob("*.yaml")):
        said = re.sub(r"\s+", " ", _read_comments(file)[""])
        usual = " (default)" if _choices().get(group) == file.stem else ""
        rows.append(f"| `{group}={file.stem}`{usual} | {_plain(said)} |")
    return [*rows, ""]


def _choices() -> dict[str, str]:
    return dict(_with_hydra("config").hydra.runtime.choices)


@functools.cache
def _with_hydra(file: str) -> Any:
    """What a file of ``conf/`` and those that it names make together: the one of a command, or an option of a group."""
    prepare_hydra()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name=file, return_hydra_config=True)


def _entries(file: Path, group: str) -> list[str]:
    """A table of the entries of a file whose settings are arguments of a class."""
    comments = _read_comments(file)
    prefix = group.replace("/", ".")
    rows = [
        f"| `{prefix}.{name}` | {_code(value)} | {_plain(comments.get(name, ''))} |"
        for name, value in _leaves(yaml.safe_load(file.read_text(encoding="utf-8")))
        if not name.startswith(("defaults", "_target_")) and not name.endswith(("._target_", "._partial_"))
    ]
    return (
        [f"With `{group}={file.stem}`:", "", "| setting | default | |", "| --- | --- | --- |", *rows, ""]
        if rows
        else []
    )


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


@functools.cache
def _comments() -> dict[str, str]:
    """The comment above each setting in ``conf/``, by its name; of a command's own file, by ``command:name``."""
    found: dict[str, str] = {}
    for file in sorted(config_dir().rglob("*.yaml")):
        group = "/".join(file.relative_to(config_dir()).parts[:-1])
        prefix = {"": "", "reading": "data."}.get(group, f"{group}.")
        for name, comment in _read_comments(file).items():
            if not group and file.stem in SCHEMA:
                found[f"{file.stem}:{name}"] = comment
            else:
                found.setdefault(f"{prefix}{name}", comment)
    return found


@functools.cache
def _read_comments(file: Path) -> dict[str, str]:
    """The comment above each key of a file; that of the file itself under "".

    The file's own are the lines at its top, up to the first that is none.
    """
    found = {"": ""}
    block: list[str] = []
    path: list[tuple[int, str]] = []
    top = True
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            block += [] if text.startswith("# @package") else [text.removeprefix("#").strip()]
            continue
        if top:
            found[""], block, top = " ".join(block), [], False
        key = re.match(r"( *)([\w]+):(?: |$)", line)
        if key:
            path = [(indent, name) for indent, name in path if indent < len(key[1])] + [(len(key[1]), key[2])]
            if block:
                found[".".join(name for _, name in path)] = " ".join(block)
        block = []
    return found


def _meaning(setting: Setting, comment: str) -> str:
    """The meaning, then the comment; the comment alone where it says the same in more words."""
    words, more = ({word[:4] for word in re.findall(r"[a-z]{4,}", text.lower())} for text in (setting.meaning, comment))
    words -= {"whet", "what", "whic", "that"}
    return comment if len(words & more) >= len(words) / 2 else f"{setting.meaning} {comment}".strip()


def _code(value: object) -> str:
    text = as_given(value)
    return "must be given" if text == "???" else f"`{text}`" if text else '`""`'


def _plain(text: str) -> str:
    """Text as it is, without anything that Markdown or HTML would read."""
    return re.sub(r"([*|\[\]`])", r"\\\1", html.escape(text, quote=False))


def commands() -> str:
    """What each command's ``--help`` says before it lists the settings."""
    parts = []
    for command, text in COMMANDS.items():
        said = _with_hydra("config" if command == "train" else command).hydra.help.header.strip()
        parts += [f"## covidnet {command}", "", f"{text[0].upper()}{text[1:]}.", "", "```text", said, "```", ""]
    return "\n".join(parts)


def summary_json() -> str:
    """The keys of a sweep's summary.json, with those of the values that are objects themselves."""
    waiting: list[Any] = [SweepSummary]
    parts: list[str] = []
    for kind in waiting:  # grows
        told = dict(re.findall(r"^ +(\w+): ((?:.|\n)*?)(?=\n +\w+: |\n\n|\Z)", _arguments(kind), re.M))
        parts += [f"### {'The whole' if kind is SweepSummary else kind.__name__}", "", _first_sentence(kind), ""]
        parts += ["| key | value | |", "| --- | --- | --- |"]
        hints = get_type_hints(kind)
        for one in dataclasses.fields(kind):
            hint = hints[one.name]
            waiting += [found for found in _dataclasses(hint) if found not in waiting]
            value = re.sub(r"\b(?:\w+\.)+", "", str(hint) if get_args(hint) else hint.__name__)
            value = html.escape(value.replace("tuple[float, float]", "interval").replace("| None", "or null"))
            for found in _dataclasses(hint):
                value = value.replace(found.__name__, f"[{found.__name__}](#{found.__name__.lower()})")
            meaning = re.sub(r"\bNone\b", "null", " ".join(told.get(one.name, "").split())).rstrip(".")
            parts.append(f"| `{one.metadata.get('key') or one.name}` | {value} | {_plain(meaning)} |")
        parts.append("")
    return "\n".join(parts)


def _arguments(kind: type) -> str:
    documents = [inspect.cleandoc(vars(each).get("__doc__") or "") for each in reversed(kind.__mro__[:-1])]
    return "\n\n".join(document.partition("Args:\n")[2] for document in documents)


def _first_sentence(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _dataclasses(hint: Any) -> list[Any]:
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [found for inner in get_args(hint) for found in _dataclasses(inner)]


_GENERATED = {"reference/files.md": summary_json, "reference/settings.md": settings, "reference/commands.md": commands}
