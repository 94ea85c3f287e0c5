"""productmd reads the tree from which an OS is installed, whose description has a hidden name."""

import sys
from pathlib import Path

from productmd.treeinfo import TreeInfo, Variant  # type: ignore[import-untyped]

from tests.real.support import put
from tests.rig import running_server

from .support import DEBUG, run, stop_and_count

READ = """
import sys
from productmd.common import open_file_obj
from productmd.treeinfo import TreeInfo
tree = TreeInfo()
with open_file_obj(sys.argv[1] + "/os/.treeinfo") as file:
    tree.loads(file.read().decode())
print(tree.release.short, tree.tree.arch, tree.images.images["x86_64"]["kernel"])
"""


def plant(root: Path) -> None:
    """Describe a tree with a kernel, as the composes of a distribution are."""
    put(root / "os/images/pxeboot/vmlinuz", b"kernel")
    tree = TreeInfo()
    tree.release.name, tree.release.short, tree.release.version = "Example", "Ex", "9"
    tree.tree.arch = "x86_64"
    tree.tree.build_timestamp = 1_700_000_000
    tree.tree.platforms.add("x86_64")
    tree.images.images["x86_64"] = {"kernel": "images/pxeboot/vmlinuz"}
    variant = Variant(tree)
    variant.id = variant.uid = variant.name = "Server"
    variant.type = "variant"
    variant.paths.packages, variant.paths.repository = "Packages", "."
    tree.variants.add(variant)
    tree.checksums.add("images/pxeboot/vmlinuz", "sha256", root_dir=root / "os")
    tree.dump(str(root / "os/.treeinfo"))


def test_an_installation_tree(site: Path, tmp_path: Path) -> None:
    plant(site)
    with running_server(*DEBUG, "--hidden", ".treeinfo", root=site) as server:
        told = run(tmp_path, sys.executable, "-c", READ, server.url).stdout
        requests = stop_and_count(server)
    assert told == b"Ex x86_64 images/pxeboot/vmlinuz\n"
    assert {(each.target, each.status) for each in requests} == {("/os/.treeinfo", 200)}


def test_without_the_option_there_is_none(site: Path, tmp_path: Path) -> None:
    plant(site)
    with running_server(root=site) as server:
        failed = run(tmp_path, sys.executable, "-c", READ, server.url, fails=True)
    assert b"404" in failed.stderr
