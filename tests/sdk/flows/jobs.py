"""Command jobs from submission to their files, and every other thing that is said about them (contract 5)."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

from azure.ai.ml import Input, MpiDistribution, Output, PyTorchDistribution, TensorFlowDistribution, command, load_job
from azure.ai.ml.constants import AssetTypes, InputOutputModes, ListViewType
from azure.ai.ml.entities import (
    AmlTokenConfiguration,
    Data,
    JobService,
    JupyterLabJobService,
    ManagedIdentityConfiguration,
    Model,
    QueueSettings,
    SshJobService,
    TensorBoardJobService,
    UserIdentityConfiguration,
    VsCodeJobService,
)
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from flows.distributed import RANKS, REDUCE, SERVED
from flows.expect import names, raises, until

ENDED = ("Completed", "Failed", "Canceled")
# Made by the tests: small enough that several jobs run at once.
TINY = "tiny"
IMAGE = "python:3.11"

SCRIPT = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("whole", "part", "flag", "text", "file", "folder", "out"):
    parser.add_argument("--" + name)
given = parser.parse_args()
# Each in one piece: of a line that is half there when the SDK looks, its stream never shows the rest.
print(f"whole {given.whole} part {given.part} flag {given.flag} text {given.text}")
print("file " + pathlib.Path(given.file).read_text().strip())
print("folder " + repr(sorted(each.name for each in pathlib.Path(given.folder).rglob("*") if each.is_file())))
print("variable " + os.environ["MINE"])
out = pathlib.Path(given.out)
(out / "sub").mkdir(parents=True, exist_ok=True)
(out / "sub" / "result.txt").write_text("result " + given.whole)
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/extra.txt").write_text("extra")
"""


def job(text: str = "echo hello", **changes):
    """A command job of the small instance type."""
    return command(**{"command": text, "environment": image(), "compute": "local", "instance_type": TINY, **changes})


def image():
    from azure.ai.ml.entities import Environment

    return Environment(image=IMAGE)


def echo(environment):
    return job(environment=environment)


def ended(place, name: str) -> str:
    """Wait until the job has ended; how."""
    return until(lambda: (status := place.ml.jobs.get(name).status) in ENDED and status, f"job {name} ends")


def streamed(place, name: str) -> str:
    """What following the job prints."""
    with redirect_stdout(io.StringIO()) as printed:
        place.ml.jobs.stream(name)
    return printed.getvalue()


def files(folder) -> dict[str, str]:
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


def finished(place):
    """A completed job with an input and output of every kind, made once."""
    if "finished" not in place.shared:
        place.file("code/train.py", SCRIPT)
        place.file("code/.amlignore", "ignored.txt\n")
        place.file("code/ignored.txt", "x")
        place.file("folder/a.csv", "1\n")
        place.file("folder/sub/b.csv", "2\n")
        submitted = place.ml.jobs.create_or_update(
            job(
                "python train.py --whole ${{inputs.whole}} --part ${{inputs.part}} --flag ${{inputs.flag}} --text '${{inputs.text}}' "
                "--file ${{inputs.file}} --folder ${{inputs.folder}} --out ${{outputs.out}} && ls && echo one > ${{outputs.single}}/one.txt",
                code=str(place.folder / "code"),
                inputs={
                    "whole": 7,
                    "part": 3.5,
                    "flag": True,
                    "text": "a b",
                    "file": Input(type=AssetTypes.URI_FILE, path=place.file("one.csv", "content of one\n")),
                    "folder": Input(type=AssetTypes.URI_FOLDER, path=str(place.folder / "folder"), mode=InputOutputModes.DOWNLOAD),
                },
                outputs={
                    "out": Output(type=AssetTypes.URI_FOLDER),
                    "single": Output(
                        type=AssetTypes.URI_FOLDER, path="azureml://datastores/workspaceblobstore/paths/named/${{name}}/", mode="upload"
                    ),
                    "model": Output(type=AssetTypes.CUSTOM_MODEL),
                },
                environment_variables={"MINE": "my value"},
                display_name="shown so",
                experiment_name="exp",
                description="of a test",
                tags={"a": "b"},
            )
        )
        assert submitted.status in ("NotStarted", "Preparing", "Queued", "Starting", "Running")
        assert submitted.studio_url.startswith(place.url)
        place.shared["log"] = streamed(place, submitted.name)
        place.shared["finished"] = place.ml.jobs.get(submitted.name)
    return place.shared["finished"]


def a_job_gets_its_literals_files_folders_and_variables_and_is_followed_to_its_end(place) -> None:
    done = finished(place)
    log = place.shared["log"]
    assert done.status == "Completed", log
    assert "whole 7 part 3.5 flag True text a b" in log and "file content of one" in log
    assert "folder ['a.csv', 'b.csv']" in log and "variable my value" in log
    assert "train.py" in log and "ignored.txt" not in log


def a_job_is_shown_as_it_was_submitted(place) -> None:
    done = finished(place)
    assert (done.type, done.display_name, done.experiment_name, done.description) == ("command", "shown so", "exp", "of a test")
    assert done.tags["a"] == "b" and done.environment_variables["MINE"] == "my value"
    assert done.compute.endswith("local") and done.resources.instance_type == TINY
    assert {name: str(each._data) for name, each in done.inputs.items() if name in ("whole", "part", "flag", "text")} == {
        "whole": "7",
        "part": "3.5",
        "flag": "True",
        "text": "a b",
    }
    assert done.inputs["folder"]._data.mode == "download" and done.inputs["file"]._data.type == "uri_file"
    assert done.outputs["single"].path.endswith("named/${{name}}/") and done.outputs["model"].type == "custom_model"
    assert done.creation_context.created_by


def jobs_are_listed_with_archived_ones_on_request(place) -> None:
    name = finished(place).name
    assert name in names(place.ml.jobs.list())
    assert list(place.ml.jobs.list(parent_job_name=name)) == []
    place.ml.jobs.archive(name)
    assert name not in names(place.ml.jobs.list())
    assert name in names(place.ml.jobs.list(list_view_type=ListViewType.ARCHIVED_ONLY))
    place.ml.jobs.restore(name)
    assert name in names(place.ml.jobs.list())
    raises(ResourceNotFoundError, "nobody", place.ml.jobs.get, "nobody")


def a_job_is_edited_after_its_end(place) -> None:
    fetched = place.ml.jobs.get(finished(place).name)
    fetched.tags["more"] = "tags"
    fetched.display_name = "shown otherwise"
    fetched.description = "changed"
    place.ml.jobs.create_or_update(fetched)
    again = place.ml.jobs.get(fetched.name)
    assert (again.display_name, again.description, again.tags) == ("shown otherwise", "changed", {"a": "b", "more": "tags"})
    fetched.display_name, fetched.description = "shown so", "of a test"
    place.ml.jobs.create_or_update(fetched)


def all_of_a_job_is_downloaded(place) -> None:
    name = finished(place).name
    place.ml.jobs.download(name, download_path=str(place.folder / "all"), all=True)
    got = files(place.folder / "all")
    assert got["named-outputs/out/sub/result.txt"] == "result 7" and got["named-outputs/single/one.txt"] == "one\n"
    assert got["artifacts/outputs/extra.txt"] == "extra" and "variable my value" in got["artifacts/user_logs/std_log.txt"]


def one_output_of_a_job_is_downloaded(place) -> None:
    name = finished(place).name
    place.ml.jobs.download(name, download_path=str(place.folder / "one"), output_name="out")
    assert files(place.folder / "one") == {"named-outputs/out/sub/result.txt": "result 7"}
    place.ml.jobs.download(name, download_path=str(place.folder / "logs"))
    assert "artifacts/user_logs/std_log.txt" in files(place.folder / "logs")


def a_model_of_a_jobs_output_is_registered_and_downloaded(place) -> None:
    name = finished(place).name
    made = place.ml.models.create_or_update(Model(name="fromjob", path=f"azureml://jobs/{name}/outputs/out", type=AssetTypes.CUSTOM_MODEL))
    place.ml.models.download("fromjob", made.version, download_path=str(place.folder / "m"))
    assert "result 7" in files(place.folder / "m").values()
    raises(
        HttpResponseError,
        "no output 'ghost'",
        place.ml.models.create_or_update,
        Model(name="g", path=f"azureml://jobs/{name}/outputs/ghost"),
    )


def a_job_reads_assets_and_what_other_jobs_wrote_in_every_mode(place) -> None:
    place.file("d/x.txt", "from a data asset")
    data = place.ml.data.create_or_update(Data(name="jobdata", path=str(place.folder / "d"), type=AssetTypes.URI_FOLDER))
    model = place.ml.models.create_or_update(Model(name="jobmodel", path=place.file("w.bin", "from a model")))
    before = finished(place).name
    submitted = place.ml.jobs.create_or_update(
        job(
            "cat ${{inputs.data}}/x.txt; echo; find ${{inputs.model}} -type f | xargs cat; echo; cat ${{inputs.previous}}/sub/result.txt; echo; "
            "cat ${{inputs.latest}}/x.txt; echo; find ${{inputs.newest}} -type f | xargs cat; echo; echo direct ${{inputs.direct}} $[[${{inputs.optional}}]]",
            inputs={
                "data": Input(type=AssetTypes.URI_FOLDER, path=f"azureml:jobdata:{data.version}", mode=InputOutputModes.RO_MOUNT),
                "model": Input(type=AssetTypes.CUSTOM_MODEL, path=f"azureml:jobmodel:{model.version}"),
                # Python code asks for these under their names with the prefix; YAML files without.
                "latest": Input(type=AssetTypes.URI_FOLDER, path="azureml:jobdata@latest"),
                "newest": Input(type=AssetTypes.CUSTOM_MODEL, path="azureml:jobmodel@latest"),
                "previous": Input(type=AssetTypes.URI_FOLDER, path=f"azureml://jobs/{before}/outputs/out"),
                "direct": Input(type=AssetTypes.URI_FOLDER, path=data.path, mode=InputOutputModes.DIRECT),
            },
        )
    )
    log = streamed(place, submitted.name)
    for words in ("from a data asset", "from a model", "result 7", "direct /mnt/azureml/inputs/direct"):
        assert words in log, log
    assert (log.count("from a data asset"), log.count("from a model")) == (2, 2), log


def outputs_that_name_assets_are_registered(place) -> None:
    submitted = place.ml.jobs.create_or_update(
        job(
            "echo d > ${{outputs.d}}/f.txt; echo m > ${{outputs.m}}/w.bin",
            outputs={
                "d": Output(type=AssetTypes.URI_FOLDER, name="made_data"),
                "m": Output(type=AssetTypes.CUSTOM_MODEL, name="made_model", version="9"),
            },
        )
    )
    assert ended(place, submitted.name) == "Completed"
    assert place.ml.data.get("made_data", "1").type == "uri_folder"
    place.ml.models.download("made_model", "9", download_path=str(place.folder / "m"))
    assert list(files(place.folder / "m").values()) == ["m\n"]


def a_failing_job_says_why(place) -> None:
    submitted = place.ml.jobs.create_or_update(job("echo the last words; exit 7"))
    error = raises(JobException, "the last words", streamed, place, submitted.name)
    assert "7" in str(error)
    assert place.ml.jobs.get(submitted.name).status == "Failed"


def a_running_job_is_cancelled(place) -> None:
    submitted = place.ml.jobs.create_or_update(job("echo begun; sleep 600"))
    until(lambda: place.ml.jobs.get(submitted.name).status == "Running", "the job runs")
    place.ml.jobs.begin_cancel(submitted.name).result()
    assert ended(place, submitted.name) == "Canceled"
    place.ml.jobs.begin_delete(submitted.name).result()
    raises(ResourceNotFoundError, submitted.name, place.ml.jobs.get, submitted.name)


def a_job_beyond_its_time_is_ended(place) -> None:
    endless = job("echo begun; sleep 600")
    endless.set_limits(timeout=1)
    submitted = place.ml.jobs.create_or_update(endless)
    assert submitted.limits.timeout == 1
    assert ended(place, submitted.name) == "Canceled"


def a_job_of_a_yaml_file_is_submitted_as_its_folder_has_it(place) -> None:
    place.file("y/src/main.py", "print('of the yaml file')\n")
    place.ml.data.create_or_update(Data(name="yamldata", path=place.file("y/in.txt", "of an asset\n"), type=AssetTypes.URI_FILE))
    source = place.file(
        "y/job.yml",
        "$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\ncommand: python main.py && cat ${{inputs.i}}\ncode: src\n"
        f"environment:\n  image: {IMAGE}\ncompute: azureml:local\nresources:\n  instance_type: {TINY}\ninputs:\n  i:\n    type: uri_file\n    path: azureml:yamldata@latest\n"
        "limits:\n  timeout: 120\nexperiment_name: yaml\n",
    )
    submitted = place.ml.jobs.create_or_update(load_job(source))
    log = streamed(place, submitted.name)
    assert "of the yaml file" in log and "of an asset" in log


def what_is_wrong_with_a_job_is_said_at_once(place) -> None:
    for words, changes in (
        ("nowhere", {"compute": "nowhere"}),
        ("huge", {"instance_type": "huge"}),
        ("ghost", {"environment": "ghost:1"}),
        ("example.org", {"inputs": {"i": Input(type=AssetTypes.URI_FILE, path="https://example.org/x.csv")}}),
    ):
        before = names(place.ml.jobs.list())
        raises(HttpResponseError, words, place.ml.jobs.create_or_update, job(**changes))
        assert names(place.ml.jobs.list()) == before


def every_field_of_a_job_comes_back(place) -> None:
    for number, distribution in enumerate(
        (
            PyTorchDistribution(process_count_per_instance=2),
            TensorFlowDistribution(worker_count=2, parameter_server_count=1),
            MpiDistribution(process_count_per_instance=2),
        )
    ):
        identity = (AmlTokenConfiguration(), ManagedIdentityConfiguration(client_id="c"), UserIdentityConfiguration())[number]
        submitted = place.ml.jobs.create_or_update(
            job(
                distribution=distribution,
                instance_count=2,
                identity=identity,
                shm_size="3g",
                docker_args="--cap-add=SYS_PTRACE",
                queue_settings=QueueSettings(job_tier="Standard", priority="high"),
                services={
                    "jl": JupyterLabJobService(nodes="all"),
                    "ssh": SshJobService(ssh_public_keys="ssh-rsa AAA"),
                    "vs": VsCodeJobService(),
                    "tb": TensorBoardJobService(log_dir="outputs/tb"),
                    "any": JobService(type="jupyter_lab", port=8000),
                },
            )
        )
        shown = place.ml.jobs.get(submitted.name)
        assert shown.distribution.type == distribution.type and shown.resources.instance_count == 2
        assert shown.resources.shm_size == "3g" and shown.identity.type == identity.type
        assert shown.queue_settings.priority.lower() == "high" and shown.queue_settings.job_tier.lower() == "standard"
        assert {"jl", "ssh", "vs", "tb", "any", "Studio", "Tracking"} <= set(shown.services)
        assert shown.services["tb"].log_dir == "outputs/tb" and shown.services["ssh"].ssh_public_keys == "ssh-rsa AAA"
        started = place.ml.jobs.show_services(submitted.name)
        assert "does not run services inside jobs" in started["jl"].error
        # Whether it can run in this cluster is another test's matter; it ends, and says how.
        if ended(place, submitted.name) != "Completed":
            raises(JobException, "", streamed, place, submitted.name)


def processes_of_a_distributed_job_work_together(place) -> None:
    for script, distribution, rank, lines in (
        (REDUCE, PyTorchDistribution(process_count_per_instance=2), 3, ("process 0 of 4: 6", "process 3 of 4: 6")),
        (
            SERVED,
            TensorFlowDistribution(worker_count=2, parameter_server_count=1),
            1,
            ("worker 0 of 2 has weights", "worker 1 of 2 has weights"),
        ),
    ):
        code = place.folder / f"code-{rank}"
        code.mkdir()
        (code / "main.py").write_text(script)
        whole = job("python main.py", code=str(code), distribution=distribution, instance_count=2)
        submitted = place.ml.jobs.create_or_update(whole)
        log = streamed(place, submitted.name)
        assert ended(place, submitted.name) == "Completed" and lines[0] in log, log
        assert lines[1] not in log, "other processes have logs of their own"
        folder = place.folder / f"down-{rank}"
        place.ml.jobs.download(submitted.name, download_path=str(folder), all=True)
        logs = files(folder / "artifacts" / "user_logs")
        assert (logs["std_log_process_0.txt"], logs[f"std_log_process_{rank}.txt"]) == (f"{lines[0]}\n", f"{lines[1]}\n"), logs


def processes_of_an_mpi_job_work_together(place) -> None:
    code = place.folder / "code"
    code.mkdir()
    (code / "main.py").write_text(RANKS)
    # Images of the embedded cluster have no MPI; the environment of our own tests has one.
    path = {"PATH": f"{Path(__file__).parents[3]}/.venv/bin:/usr/bin:/bin"}
    distribution = MpiDistribution(process_count_per_instance=2)
    whole = job("python main.py", code=str(code), distribution=distribution, instance_count=2, environment_variables=path)
    submitted = place.ml.jobs.create_or_update(whole)
    log = streamed(place, submitted.name)
    assert ended(place, submitted.name) == "Completed", log
    assert sorted(line for line in log.splitlines() if line.startswith("process ")) == [f"process {rank} of 4: 6" for rank in range(4)], log


def counts_of_a_distributed_job_that_contradict_each_other_are_refused(place) -> None:
    distribution = TensorFlowDistribution(worker_count=2, parameter_server_count=1)
    raises(HttpResponseError, "workerCount", place.ml.jobs.create_or_update, job(distribution=distribution, instance_count=4))
