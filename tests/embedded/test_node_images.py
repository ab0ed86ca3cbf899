"""What other images than ours mean on a machine: its Python, with a layer of the container's own above it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from tests.fixtures.wheels import wheel

from moorage.embedded.node.images import of_this_installation


def test_a_container_installs_above_the_machine_s_python_and_not_into_it(tmp_path: Path) -> None:
    images = of_this_installation(tmp_path / "names")
    made = wheel(tmp_path, "layerpkg", "1.0")
    (tmp_path / "a").mkdir()
    mine = images.path("python:3.11", tmp_path / "a" / ".python")
    script = f"pip install --quiet --disable-pip-version-check --no-index --no-deps {made} && python3 -c 'import layerpkg, sys; print(sys.prefix)' && layer"
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": mine}, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path / 'a' / '.python'}\nlayer 42\n", done.stderr
    (tmp_path / "b").mkdir()
    other = images.path("python:3.11", tmp_path / "b" / ".python")
    for path in (other, images.default):
        seen = subprocess.run(["python", "-c", "import layerpkg"], env={"PATH": path}, capture_output=True, text=True, check=False)
        assert "No module named 'layerpkg'" in seen.stderr


def test_containers_of_a_pod_get_the_same_layer(tmp_path: Path) -> None:
    images = of_this_installation(tmp_path / "names")
    folder = tmp_path / "home" / ".python"
    folder.parent.mkdir()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(images.path("python", folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"{folder / 'bin'}:{images.default}"] * 8
    assert [path.name for path in folder.parent.iterdir()] == [".python"]


def test_our_own_image_has_no_layer(tmp_path: Path) -> None:
    images = of_this_installation(tmp_path / "names")
    assert images.path("moorage.dev/component:1.2", tmp_path / ".python") == images.component
    assert not (tmp_path / ".python").exists()
