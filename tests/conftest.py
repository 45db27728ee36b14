import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")


ORDER = ("unit", "integration", "chaos", "browser", "gpu")


def pytest_collection_modifyitems(items):
    """Fast tests first: a mistake shows before Ray starts. A test without a kind is a mistake."""
    for item in items:
        kinds = [kind for kind in ORDER if item.get_closest_marker(kind)]
        assert len(kinds) == 1, f"{item.nodeid}: mark it as one of {ORDER}"
    items.sort(key=lambda item: ORDER.index(next(k for k in ORDER if item.get_closest_marker(k))))
