"""The public surface: whatever is here stays as it is. Adding to it is a decision."""

import dataclasses
import importlib
import inspect
from typing import Any, Final

import pytest

from trio_amped.disk.interface import Disk, PromptDisk
from trio_amped.testing import SimDisk

SURFACE: Final[dict[str, dict[str, set[str]]]] = {
    "trio_amped": {
        "Answered": {
            *("method", "target", "version", "host", "referer", "agent", "head", "status"),
            *("sent", "body", "seconds", "peer", "tls", "scheme", "gate", "waited"),
        },
        "ClientGone": set(),
        "Config": {"all_sites", "binds", "forwarding", "head_limits", "trusted"},
        "Exchange": {"peer", "receive_some", "respond", "start", "send_all"},
        "Server": {"serve", "stop_accepting", "retire", "drain", "reopen_access_log"},
        "Site": {"application", "policy"},
        "Sites": {"drain"},
        "Stats": {"as_dict", "of_dict", "add"},
        "__version__": set(),
        "handle_connection": set(),
        "open_sites": set(),
        "serve": set(),
    },
    "trio_amped.asgi": {
        "StaticFiles": {"opened"},
    },
    "trio_amped.disk": {
        "DiskGate": {"open"},
        "File": {"size", "gate", "read_at"},
        "open": set(),
        "open_gate": set(),
    },
    "trio_amped.testing": {
        "Client": {"get", "request"},
        "Response": {"status", "headers", "body"},
        "Served": {"connect"},
        "SimDisk": {
            *("open_files", "truncate", "truncate_descriptors", "replace", "evict", "rendered"),
            *("digest", "explain"),
        },
        "SimFile": {"status"},
        "serving": set(),
    },
}
"""The names of each module, and those that each class has of its own, but for its data."""
NAMES: Final = [(module, name) for module, names in SURFACE.items() for name in names]


def public(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def own_names(found: type) -> set[str]:
    """What a class has of its own; what a disk is to the server is nothing for others to call."""
    names = {name for name in vars(found) if not name.startswith("_")}
    return names - {*vars(Disk), *vars(PromptDisk)} if found is SimDisk else names


@pytest.mark.parametrize("module", SURFACE)
def test_a_module_offers_these(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(SURFACE[module])


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_class_offers_these(module: str, name: str) -> None:
    found = public(module, name)
    if not inspect.isclass(found):
        return
    fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) else ()
    data = {each.name for each in fields}
    assert own_names(found) - data == SURFACE[module][name]


def documented() -> list[Any]:
    found = [public(module, name) for module, name in NAMES if name != "__version__"]
    classes = [each for each in found if inspect.isclass(each)]
    for each in classes:
        methods = [vars(each)[name] for name in own_names(each)]
        found += [each for each in methods if callable(each) or isinstance(each, property)]
    return found


@pytest.mark.parametrize("thing", documented(), ids=str)
def test_all_of_it_is_documented(thing: Any) -> None:
    """What is awaited says whether it is a checkpoint, what a cancellation leaves, what it raises;
    or where that is said."""
    text = inspect.getdoc(thing)
    assert text
    says_where = "As `" in text or "The same holds" in text
    if inspect.iscoroutinefunction(thing) and not says_where:
        assert "checkpoint" in text.lower()
        assert "cancel" in text.lower()
        assert "Raises" in text
