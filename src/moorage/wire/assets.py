"""Assets after their references are resolved: what a manifest needs of an environment, a model, a folder of code."""

from __future__ import annotations

from dataclasses import dataclass, field

from moorage.errors import Invalid
from moorage.specs.environment import environment_hash
from moorage.specs.manifest import Manifest

# Which types of input hold exactly one file; every other is a folder.
FILE_TYPES = frozenset({"uri_file"})


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What an environment's image is built from.

    Attributes:
        environment: the asset's name.
        version: its version.
        address: the folder of its files, `CONTAINER/PATH`.
        dockerfile: path of the Dockerfile below it.
        digest: of the files' names and contents and of the Dockerfile's path.
    """

    environment: str
    version: str
    address: str
    dockerfile: str
    digest: str


@dataclass(frozen=True, slots=True)
class Environment:
    """What code runs in: an image as it is, packages prepared once per cluster, or an image that a builder makes first (`build`)."""

    name: str
    image: str | None = None
    conda: str | None = None
    pip: tuple[str, ...] = ()
    build: BuildContext | None = None

    def rendered(self) -> Manifest:
        """As `spec.environment` of a TrainingJob or OnlineDeployment."""
        rendered: Manifest = {"name": self.name}
        if self.image:
            rendered["image"] = self.image
        if self.conda:
            rendered["conda"] = self.conda
        if self.pip:
            rendered["pip"] = list(self.pip)
        if self.conda or self.pip:
            rendered["hash"] = environment_hash(self.conda, list(self.pip))
        return rendered


def read_environment(name: str, version: str, properties: Manifest, *, target: str) -> Environment:
    """The environment that a stored version with an image or packages describes; Invalid for any other.

    Args:
        name: the asset's name.
        version: its version.
        properties: the version's ARM `properties`.
        target: the field that names the environment, for messages.
    """
    label = f"{name}:{version}"
    if properties.get("build"):
        raise Invalid(
            f"{target}: environment '{label}' of the registry has a build context; only a workspace's own environments are built. "
            "Create it in the workspace, or build and push the image yourself and use 'image'.",
            code="NotYetImplemented",
            target=target,
        )
    image, conda, pip = properties.get("image"), properties.get("condaFile"), properties.get("pip")
    if not image and not conda and not pip:
        raise Invalid(
            f"{target}: environment '{label}' has neither an image nor a conda file. Create a version that has one.", target=target
        )
    return Environment(label, str(image) if image else None, str(conda) if conda else None, tuple(str(line) for line in pip or ()))


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model, or a path used as one."""

    name: str
    version: str
    uri: str
    kind: str = "folder"

    def rendered(self) -> Manifest:
        return {"name": self.name, "version": self.version, "uri": self.uri, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class JobAssets:
    """Everything a command job refers to, as blob addresses (`CONTAINER/PATH`).

    Args:
        environment: what it runs in.
        artifacts: where logs, `./outputs` and `./logs` go.
        code: folder the command starts in.
        inputs: address by input name, for all but literals.
        outputs: address by output name.
    """

    environment: Environment
    artifacts: str
    code: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeploymentAssets:
    """Everything a deployment refers to."""

    environment: Environment
    code: str | None = None
    model: Model | None = None
