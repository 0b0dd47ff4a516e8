"""The OpenAPI document as one page to read, without a script: what there is to call, to send, and to hear back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: #8881; padding: .75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid #8884; }
section { margin: 2.5rem 0; border-top: 2px solid #8886; }
:root { color-scheme: light dark; }
"""


def html(document: Json) -> str:
    """The whole page of an OpenAPI document."""
    info = document["info"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    index = "".join(
        f'<li><a href="#{escape(operation["operationId"])}"><code>{method.upper()} {escape(path)}</code></a> '
        f"{escape(operation['summary'])}</li>"
        for method, path, operation in operations
    )
    sections = "".join(_operation(document, *each) for each in operations)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1><p>{_words(info['description'])}</p>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a>.</p><ul>{index}</ul>{sections}</body></html>'
    )


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    parts = [
        f'<section id="{escape(operation["operationId"])}"><h2>{escape(operation["summary"])}</h2>',
        f"<p><code>{method.upper()} {escape(path)}</code></p><p>{_words(operation['description'])}</p>",
    ]
    given = [
        (f"{each['name']} ({each['in']})", each.get("required", False), {"description": each.get("description", "")}
         | _resolved(document, each["schema"]))
        for each in operation.get("parameters", ())
    ]  # fmt: skip
    parts.append(_table("Parameters", given))
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(document, body["schema"])
        parts.append(f"<p>{_words(schema.get('description', ''))}</p>")
        parts.append(_table(f"Body: {kind}", list(_fields(document, schema))))
        if "example" in body:
            parts.append(f"<pre>{escape(_shortened(body['example']))}</pre>")
    parts.append(_answers(operation["responses"]))
    return "".join(parts) + "</section>"


def _answers(responses: Json) -> str:
    rows = []
    for status, answer in responses.items():
        codes = [code for body in answer.get("content", {}).values() for code in body.get("examples", {})]
        told = ", ".join(f"<code>{escape(code)}</code>" for code in codes if int(status) >= 400)
        rows.append(f"<tr><td>{escape(status)}</td><td>{_words(answer['description'])} {told}</td></tr>")
    return f"<h3>Answers</h3><table>{''.join(rows)}</table>"


def _fields(document: Json, schema: Json, before: str = "") -> Iterator[tuple[str, bool, Json]]:
    """(name, whether it is required, schema) of every field, those of objects inside it too."""
    for name, declared in schema.get("properties", {}).items():
        field = _resolved(document, declared)
        yield before + name, name in schema.get("required", ()), field
        inner = _resolved(document, field["items"] if isinstance(field.get("items"), dict) else field)
        if inner.get("properties"):
            yield from _fields(document, inner, f"{before}{name}{'[]' if 'items' in field else ''}.")


def _table(title: str, fields: list[tuple[str, bool, Json]]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if required else ''}</td>"
        f"<td>{escape(_kind(schema))}</td><td>{_words(schema.get('description', ''))}</td></tr>"
        for name, required, schema in fields
    )
    return f"<h3>{escape(title)}</h3><table>{rows}</table>"


def _kind(schema: Json) -> str:
    """A type in a few words: its values, or its name with its bounds."""
    if "anyOf" in schema:
        return ", or ".join(_kind(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    bounds = (f"{word} {schema[word]}" for word in ("minimum", "maximum", "maxLength", "maxItems") if word in schema)
    return ", ".join((schema.get("contentMediaType") or schema.get("type", "any"), *bounds))


def _resolved(document: Json, schema: Json) -> Json:
    """The schema itself where it is only named."""
    name: str = schema.get("$ref", "").rpartition("/")[2]
    found: Json = document["components"]["schemas"][name] if name else schema
    return found


def _words(text: str) -> str:
    """A description, with what stands between backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def _shortened(value: Any) -> str:
    """An example as JSON, its pictures cut."""
    lines = json.dumps(value, indent=2, ensure_ascii=False).splitlines()
    return "\n".join(line if len(line) < 120 else line[:60] + '…"' for line in lines)
