"""What goes wrong on purpose: rules that match requests, each for a number of times or with a probability.

| kind           | what the client sees                                | is it carried out? |
|----------------|-----------------------------------------------------|--------------------|
| `429`          | too many requests                                    | no                 |
| `500`          | an error of Stripe's; kept under an idempotency key  | no                 |
| `500_after`    | the same                                             | yes                |
| `503_html`     | a proxy's error page instead of JSON                 | no                 |
| `drop_before`  | the connection closes without an answer              | no                 |
| `drop_after`   | the same                                             | **yes**            |
| `truncate`     | half an answer, then the connection closes           | **yes**            |
| `hang`         | nothing, until `delay_ms` have passed, then a close  | no                 |
| `hang_after`   | the same                                             | **yes**            |
| `delay`        | the answer, `delay_ms` late                          | yes                |
"""

from __future__ import annotations

import random
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

KINDS: Final = frozenset(
    ("429", "500", "500_after", "503_html", "drop_before", "drop_after", "truncate", "hang", "hang_after", "delay")
)
BEFORE: Final = frozenset(("429", "503_html", "drop_before", "hang"))
"""Those that keep a request from being looked at at all."""


class InvalidFault(ValueError):
    """The rule makes no sense. The message says why."""


@dataclass(slots=True)
class Fault:
    """One rule. `times` None: without end."""

    kind: str
    method: str | None = None
    path: str = ""
    times: int | None = 1
    probability: float = 1.0
    delay_ms: int = 1_000


class Faults:
    """The rules, in order; the first that matches applies."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._random = random.Random(0)  # noqa: S311 - repeatable, guards nothing

    def add(self, rule: dict[str, Any]) -> None:
        """Add a rule. Raises InvalidFault."""
        try:
            if "seed" in rule:
                self._random.seed(rule["seed"])
            fault = Fault(**{name: value for name, value in rule.items() if name != "seed"})
            re.compile(fault.path)
        except (TypeError, re.error) as error:
            raise InvalidFault(str(error)) from None
        if fault.kind not in KINDS:
            raise InvalidFault(f"kind: expected one of {', '.join(sorted(KINDS))}")
        self._rules.append(fault)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._rules.clear()

    def shown(self) -> list[dict[str, Any]]:
        """The rules that are left."""
        return [asdict(rule) for rule in self._rules]

    def of(self, method: str, path: str) -> Fault | None:
        """What goes wrong with this request; uses up one time of the rule."""
        for rule in self._rules:
            if rule.method not in (None, method) or not re.match(rule.path, path):
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
                if rule.times <= 0:
                    self._rules.remove(rule)
            return rule
        return None
