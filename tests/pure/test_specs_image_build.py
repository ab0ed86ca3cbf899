"""Names of images, what a builder may answer, and what it gets of the service's environment."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Invalid
from moorage.specs.image_build import builder_environment, dockerfile_path, read_image, suggested_name, tail

DIGEST = "0123456789abcdef0123456789abcdef"
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/P/workspaces/w1"


@pytest.mark.parametrize(
    ("environment", "version", "expected"),
    [
        ("sklearn", "1", "w1/sklearn:1"),
        ("My.Env_2", "v 1/b", "w1/my-env-2:v-1-b"),
        ("_", "-", "w1/x:v"),
        ("CliV2AnonymousEnvironment", "a" * 200, f"w1/cliv2anonymousenvironment:{'a' * 100}"),
    ],
)
def test_a_suggested_name_is_spelled_as_image_names_are(environment: str, version: str, expected: str) -> None:
    name, _, own = suggested_name(WORKSPACE, environment, version, DIGEST).rpartition("-")
    assert name == expected and re.fullmatch("[0-9a-f]{20}", own)
    assert len(f"{name}-{own}".partition(":")[2]) <= 128


def test_no_workspace_is_given_the_name_of_anothers_image() -> None:
    """Whoever uploads a context may choose its checksums, and so its digest."""
    others = [WORKSPACE.replace("/g/", "/h/"), WORKSPACE.replace("w1", "w_1"), WORKSPACE.replace("w1", "w-1")]
    assert len({suggested_name(each, "e", "1", DIGEST) for each in (WORKSPACE, *others)}) == 4
    assert suggested_name(WORKSPACE.upper(), "e", "1", DIGEST) == suggested_name(WORKSPACE, "e", "1", DIGEST)
    assert suggested_name(WORKSPACE, "e_1", "1", DIGEST) != suggested_name(WORKSPACE, "e-1", "1", DIGEST)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_every_suggested_name_is_an_image_reference(workspace: str, environment: str, version: str) -> None:
    name = suggested_name(workspace, environment, version, DIGEST)
    assert read_image(f"registry.test:5000/team/{name}") == f"registry.test:5000/team/{name}"


@pytest.mark.parametrize(
    "image",
    [
        "python:3.11-slim",
        "localhost/moorage/e:1",
        "10.0.0.7:5000/a/b_c/d--e:T.1_x",
        f"ghcr.io/org/name@sha256:{'0' * 64}",
        f"ghcr.io/org/name:1@sha256:{'a' * 64}",
    ],
)
def test_the_last_line_is_the_image(image: str) -> None:
    assert read_image(f"sha256:ignored\n\n  {image} \n\n") == image


@pytest.mark.parametrize("text", ["", "\n \n", "Not An Image", "a b", "name:", "name@sha256:12", "../x", "a/" * 400 + "b", "x\x00y", "A:1"])
def test_what_is_no_image_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="MOORAGE_IMAGE_FILE"):
        read_image(text)


def test_a_builder_gets_no_secret_of_the_service() -> None:
    own = {
        "PATH": "/bin",
        "HOME": "/root",
        "https_proxy": "http://p:1",
        "MOORAGE_DATABASE_URL": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PGPASSWORD": "x",
    }
    assert builder_environment(own) == {"PATH": "/bin", "HOME": "/root", "https_proxy": "http://p:1"}


def test_the_dockerfiles_path_stays_in_the_context() -> None:
    assert dockerfile_path("./docker//Dockerfile.gpu", target="t") == "docker/Dockerfile.gpu"
    for wrong in ("../Dockerfile", "a/../../b", "/etc/passwd", ".", ""):
        with pytest.raises(Invalid, match="leaves the build context"):
            dockerfile_path(wrong, target="t")


def test_the_dockerfiles_path_is_nothing_but_a_path_to_a_builder() -> None:
    for fine in ("Dockerfile", "docker/Dockerfile.gpu-2 (neu)", "größe/Dockerfile+x@1"):
        assert dockerfile_path(fine, target="t") == fine
    for wrong in ('D","--insecure', "D'x", "D\\x", "D$(x)", "D`x`", "D,type=x", "D\nx", "D\x00", "D;x", "D|x", "D\u2028x"):
        with pytest.raises(Invalid, match=r"which builders may take for something else\. Rename the Dockerfile"):
            dockerfile_path(wrong, target="t")


def test_the_end_of_a_log_is_free_of_terminals_tricks() -> None:
    log = b"first\r\n\x1b[1;31mred\x1b[0m\n10%\r50%\r100%\r\n\n\x00\xff\n"
    assert tail(log) == "first\nred\n100%\n\ufffd"
    assert tail("\n".join(str(number) for number in range(100)).encode()).splitlines()[0] == "80"
    assert len(tail(b"x" * 100_000)) == 4000
