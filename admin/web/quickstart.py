"""The lines people copy to make their first call. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """One way to call. `id` names its tab."""

    id: str
    title: str
    text: str


def examples(origin: str, key: str, user: str = "user-42") -> list[Example]:
    """Counting one request of an end user with a key: with curl, Python and JavaScript."""
    curl = f"""curl -X POST {origin}/api/data \\
  -H "Authorization: Bearer {key}" \\
  -H "X-User-Id: {user}" \\
  -H "Content-Type: application/json" \\
  -d '{{"quantity": 1}}'"""
    python = f'''import json
from urllib.request import Request, urlopen

request = Request(
    "{origin}/api/data",
    data=json.dumps({{"quantity": 1}}).encode(),
    headers={{
        "Authorization": "Bearer {key}",
        "X-User-Id": "{user}",
        "Content-Type": "application/json",
    }},
)
print(json.load(urlopen(request)))'''
    script = f"""const response = await fetch("{origin}/api/data", {{
  method: "POST",
  headers: {{
    "Authorization": "Bearer {key}",
    "X-User-Id": "{user}",
    "Content-Type": "application/json",
  }},
  body: JSON.stringify({{ quantity: 1 }}),
}});
console.log(await response.json());"""
    return [Example("curl", "curl", curl), Example("python", "Python", python), Example("js", "JavaScript", script)]
