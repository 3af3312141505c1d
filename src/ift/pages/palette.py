"""The colours of every page and picture: what each is for, its value on a light page and on a dark one.

Text in any of them has a contrast of 4.5 or more on each background it stands on (`TEXT_ON`), which a test computes.
"""

from __future__ import annotations

COLOURS = {
    "ink": ("#1c2330", "#e6e9ef"),  # text
    "soft": ("#5d6678", "#98a2b3"),  # text that matters less
    "line": ("#e4e7ec", "#2b3340"),
    "page": ("#f7f8fa", "#0f131a"),
    "card": ("#ffffff", "#171c25"),
    "code": ("#f2f4f7", "#1f2631"),  # behind code, chips and given texts
    "good": ("#13663c", "#6ce9a6"),
    "good-back": ("#e3f6ea", "#123425"),
    "good-back-2": ("#cdeed9", "#1a4832"),  # every second token, so that they can be told apart
    "even": ("#eff1f5", "#222936"),  # the same for tokens that are not learnt
    "bad": ("#b42318", "#fda29b"),
    "bad-back": ("#fdeceb", "#3b1a1a"),
    "warn": ("#93590b", "#f5c26b"),
    "warn-back": ("#fdf3e1", "#38290f"),
    "bar": ("#7ba7d9", "#3f6fa8"),  # bars, and the training curve of a picture
    "right": ("#3fae74", "#3fae74"),  # small marks without text
    "partly": ("#e0a43a", "#e0a43a"),
    "wrong": ("#e0625a", "#e0625a"),
    # as many runs as one page compares
    "r0": ("#2563a8", "#7db2ee"),
    "r1": ("#c2410c", "#fb9a5f"),
    "r2": ("#15803d", "#6ee7a0"),
    "r3": ("#9333ea", "#c79bf7"),
    "r4": ("#b45309", "#f0b765"),
    "r5": ("#0e7490", "#67d3e8"),
    "r6": ("#be185d", "#f490bd"),
    "r7": ("#4d5566", "#a5adbd"),
}

TEXT_ON = {
    "ink": ("page", "card", "code"),
    "soft": ("page", "card", "code", "even"),
    "good": ("page", "card", "good-back", "good-back-2"),
    "bad": ("page", "card", "bad-back"),
    "warn": ("card", "warn-back"),
    "card": ("r0",),  # the label of the main button
    **{f"r{i}": ("page", "card") for i in range(8)},
}

LIGHT = {name: light for name, (light, _) in COLOURS.items()}
DARK = {name: dark for name, (_, dark) in COLOURS.items()}


def palette_css() -> str:
    """The colours as custom properties, var(--ink) and so on, for the light or dark that the reader's system has."""

    def properties(values: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in values.items())

    runs = " ".join(f".r{i} {{ --run: var(--r{i}); }}" for i in range(8))
    return (
        f":root {{ color-scheme: light dark; {properties(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {properties(DARK)} }} }}\n{runs}\n"
    )
