"""Images built from an environment's build context: the name a builder is asked for, what it may answer, and what it is started with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from moorage.errors import Invalid
from moorage.ids import digest

# Where the original keeps it; the SDK streams it until the job has a log of its own (contract 5.1).
BUILD_LOG = "azureml-logs/20_image_build_log.txt"
# The variable that names the file into which a builder writes what it made.
RESULT_VARIABLE = "MOORAGE_IMAGE_FILE"

_TAIL_LINES = 20
_TAIL_CHARACTERS = 4000
# The grammar of image references (distribution/reference): domain, path, tag, digest.
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_MOST_IMAGE = 512
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Of a Dockerfile's path: a builder may write it into JSON, a list with commas or another program's options.
_DOCKERFILE = re.compile(r"[\w ./+@=~()-]+")
# What a builder gets of the service's own environment: where programs and its configuration are, and how the network is reached.
# Everything else may be a secret.
_KEPT = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DOCKER_HOST", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
))  # fmt: skip


class BuildStatus(StrEnum):
    """What has become of an environment's image."""

    WAITING = "Waiting"
    BUILDING = "Building"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


ACTIVE = (BuildStatus.BUILDING, BuildStatus.WAITING)


def suggested_name(workspace: str, environment: str, version: str, content: str) -> str:
    """`WORKSPACE/ENVIRONMENT:VERSION-DIGEST`, spelled as image names must be.

    The digest is of all four arguments, so that names which are spelled alike stay apart, and no workspace can push over another's image: the
    digest of a context rests on checksums that whoever uploads it may choose (`x-ms-blob-content-md5`).

    Args:
        workspace: its ARM id, compared without regard to case.
        environment: the environment's name.
        version: its version; that of an anonymous one may be a long digest.
        content: the digest of the build context.
    """
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", version).strip(".-")[:100].rstrip(".-")
    own = digest(workspace.lower(), environment, version, content, length=20)
    return f"{_part(workspace.rpartition('/')[2])}/{_part(environment)}:{tag or 'v'}-{own}"


def _part(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100].rstrip("-") or "x"


def read_image(text: str) -> str:
    """The image that a builder names on the last line of its result file.

    Raises:
        Invalid: the file is empty, or its last line is no image reference.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise Invalid(
            f"the builder ended well and named no image. It has to write the image's reference into the file ${RESULT_VARIABLE}.",
            code="ImageBuildFailed",
        )
    image = lines[-1]
    if len(image) > _MOST_IMAGE or not _IMAGE.fullmatch(image):
        raise Invalid(
            f"the builder named '{printable(image[:200])}', which is no image reference. It has to write REGISTRY/NAME:TAG, "
            f"or REGISTRY/NAME@sha256:DIGEST, into the file ${RESULT_VARIABLE}.",
            code="ImageBuildFailed",
        )
    return image


def builder_environment(own: Mapping[str, str]) -> dict[str, str]:
    """What of the service's environment a builder gets: no secret of the service is among it.

    A proxy's address is passed on as it is, with a password that stands in it: builds need it to reach the network.
    """
    return {name: value for name, value in own.items() if name in _KEPT}


def dockerfile_path(text: str, *, target: str) -> str:
    """The Dockerfile's path below its context, in its plainest form; Invalid when it leaves the context, or could be more than a path to a builder."""
    parts = [part for part in text.strip().split("/") if part not in ("", ".")]
    if text.strip().startswith("/") or ".." in parts or not parts:
        raise Invalid(
            f"{target}: the Dockerfile's path '{text}' leaves the build context. Give its path below the context's folder.", target=target
        )
    if not _DOCKERFILE.fullmatch(text.strip()):
        raise Invalid(
            f"{target}: the Dockerfile's path '{printable(text)}' has other characters than letters, digits, spaces and ._/+@=~()-, "
            "which builders may take for something else. Rename the Dockerfile, and register a new version.",
            target=target,
        )
    return "/".join(parts)


def tail(log: bytes) -> str:
    """The end of a build's log in words for a message: without the control sequences of terminals, and with only the last state of progress bars."""
    text = log.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = [printable(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-_TAIL_LINES:])[-_TAIL_CHARACTERS:]


def printable(text: str) -> str:
    """The text without escape sequences and control characters, which no database and no terminal should get."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))
