"""One flow through every kind of connection the SDK makes: management, storage, run history, data plane."""

from __future__ import annotations

from azure.ai.ml import Input, Output
from azure.ai.ml.constants import AssetTypes
from flows.jobs import files, job, streamed


def files_go_up_a_job_runs_and_its_files_come_down(place) -> None:
    assert place.ml.workspaces.get(place.scope["workspace"]).discovery_url.startswith(place.url)
    place.file("src/main.py", "import sys; open(sys.argv[2] + '/copy.txt', 'w').write(open(sys.argv[1]).read()); print('copied')\n")
    submitted = place.ml.jobs.create_or_update(
        job(
            "python main.py ${{inputs.i}} ${{outputs.o}}",
            code=str(place.folder / "src"),
            inputs={"i": Input(type=AssetTypes.URI_FILE, path=place.file("in.txt", "there and back"))},
            outputs={"o": Output(type=AssetTypes.URI_FOLDER)},
        )
    )
    assert "copied" in streamed(place, submitted.name)
    place.ml.jobs.download(submitted.name, download_path=str(place.folder / "got"), all=True)
    assert files(place.folder / "got")["named-outputs/o/copy.txt"] == "there and back"
