"""One chart as SVG, drawn by hand: CPU per request of each peer, its Redis on top. Readable in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.bench.measure import Figures
from tests.bench.peers import PEERS

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 170, 520, 26, 14, 58
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.n{font-variant-numeric:tabular-nums}"
    ".t{font-weight:600;font-size:15px}"
    ".g{fill:#2f6f9f}.us{fill:#c2571a}.r{opacity:.45}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{fill:#5aa2d6}.us{fill:#f08c4a}}"
)


def draw(peers: dict[str, Figures | None], title: str, connections: int) -> str:
    """The chart of one case as SVG text; peers without figures are left out."""
    bars = [
        (PEERS[name].title, name == "tollgate", f.median(lambda s: s.cpu_us), f.median(lambda s: s.redis_cpu_us))
        for name, f in peers.items()
        if f is not None and f.samples
    ]
    scale = _WIDTH / max((cpu + redis for _, _, cpu, redis in bars), default=1)
    height = _TOP + len(bars) * (_BAR + _GAP) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 150} {height}" role="img">',
        f"<title>{title}</title><style>{_STYLE}</style>",
        f'<text class="t" x="0" y="18">{title}</text>',
        '<text x="0" y="38">µs of CPU per request; the pale part is Redis. Less is better.</text>',
    ]
    for i, (label, is_ours, cpu, redis) in enumerate(bars):
        y = _TOP + i * (_BAR + _GAP)
        colour, own, all_of_it = ("us" if is_ours else "g"), cpu * scale, (cpu + redis) * scale
        figures = f"{cpu:.1f} + {redis:.1f}" if redis else f"{cpu:.1f}"
        parts += [
            f'<text x="{_LEFT - 10}" y="{y + 18}" text-anchor="end">{label}</text>',
            f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="{own:.1f}" height="{_BAR}"/>',
            f'<rect class="{colour} r" x="{_LEFT + own:.1f}" y="{y}" width="{all_of_it - own:.1f}" height="{_BAR}"/>',
            f'<text class="n" x="{_LEFT + all_of_it + 8:.1f}" y="{y + 18}">{figures}</text>',
        ]
    note = f"One worker each, {connections} connections, one machine, medians of interleaved rounds."
    parts.append(f'<text x="0" y="{height - 10}">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(peers: dict[str, Figures | None], title: str, connections: int, path: Path) -> None:
    """Draw into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(peers, title, connections))
