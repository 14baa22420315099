"""What a job gets of the checkout: what Ray packs, and no more than the head can keep."""

import zipfile

import pytest

from cluster.launch.working_dir import shipped_files, shipped_path
from configs.load import ConfigError
from configs.paths import ROOT


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for name, text in (
        (".gitignore", "runs/\n*.pyc\n"),
        (".rayignore", "videos/\n"),
        ("configs/mine.yaml", "seed: 1\n"),
        ("cluster/cli.py", "pass\n"),
        ("cluster/cli.pyc", "x"),
        (".git/objects/pack", "x" * 999),
        ("runs/old/model.bin", "x" * 999),
        ("videos/a.mp4", "x" * 999),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_what_is_measured_is_what_ray_packs(checkout, tmp_path):
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(
        str(checkout), package, include_gitignore=True, excludes=get_runtime_env_default_excludes()
    )
    packed = {i.filename: i.file_size for i in zipfile.ZipFile(package).infolist()}
    files = {str(path): size for path, size in shipped_files(checkout).items()}
    assert files == {name: size for name, size in packed.items() if not name.endswith("/")}
    assert set(files) == {".gitignore", ".rayignore", "configs/mine.yaml", "cluster/cli.py"}


def test_the_checkout_itself_is_small():
    assert sum(shipped_files(ROOT).values()) < 16 * 2**20
    assert shipped_path(ROOT / "configs" / "gp_l.yaml") == "configs/gp_l.yaml"


def test_a_large_working_directory_is_refused_with_its_largest_entries(checkout):
    for name, mib in (("data/a.bin", 40), ("data/b.bin", 20), ("weights.bin", 30)):
        (checkout / name).parent.mkdir(exist_ok=True)
        with (checkout / name).open("wb") as file:
            file.truncate(mib * 2**20)
    words = r"has 90 MiB to ship, over 64: data/ 60.0 MiB, weights.bin 30.0 MiB, .*\.rayignore"
    with pytest.raises(ConfigError, match=words):
        shipped_path(checkout / "configs/mine.yaml", checkout)
    (checkout / "data" / ".gitignore").write_text("*\n")
    assert shipped_path(checkout / "configs/mine.yaml", checkout) == "configs/mine.yaml"


@pytest.mark.parametrize("name", ["../mine.yaml", "runs/mine.yaml"])
def test_a_configuration_that_is_not_shipped_is_refused(checkout, name):
    (checkout / name).write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: is not shipped; it must lie in"):
        shipped_path(checkout / name, checkout)
