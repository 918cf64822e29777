"""certbench: training methods for certified robustness by randomized smoothing, compared on equal terms.

    import bench

    frame = bench.load_results("results/runs")      # one line per subject and image
    bench.summary(frame, metrics=["ACR", "r=0.5"])  # mean, std and n: the numbers of `bench table`
    print(bench.table(frame, format="markdown"))
    bench.compare(frame, "gaussian", "smoothmix*")  # differences with intervals and tests: the numbers of `bench compare`
    bench.plot_curves(frame)

    smoothed = bench.SmoothedClassifier(model, sigma=0.5)   # any torch module B C H W -> B K
    smoothed.certify(images, labels, n=10_000)
    bench.run(method="smoothmix", sigma=0.5, protocol="smoke")

Nothing is loaded before it is used. docs/reference/python.md tells more.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing has it, whose import would be half the time that `import bench` takes
if TYPE_CHECKING:
    from bench.api.conduct import run, run_study
    from bench.api.own_model import SmoothedClassifier
    from bench.api.plugins import use_plugins
    from leaderboard.frame import acr, certified_accuracy, certified_radius, compare, load_results, plot_curves, summary, table

__all__ = [
    "SmoothedClassifier",
    "acr",
    "certified_accuracy",
    "certified_radius",
    "compare",
    "load_results",
    "plot_curves",
    "run",
    "run_study",
    "summary",
    "table",
    "use_plugins",
]

_PLACES = dict.fromkeys(__all__, "leaderboard.frame")
_PLACES |= {
    "SmoothedClassifier": "bench.api.own_model",
    "run": "bench.api.conduct",
    "run_study": "bench.api.conduct",
    "use_plugins": "bench.api.plugins",
}


if not TYPE_CHECKING:  # which would let every misspelt name pass

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module 'bench' has no attribute {name!r}")
        found: object = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
