"""What the service keeps and does not run: it comes back as it was sent, and says that it does not run (contract 6)."""

from __future__ import annotations

from datetime import UTC, datetime

from azure.ai.ml import Input, Output, command, dsl, load_job
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import (
    BatchDeployment,
    BatchEndpoint,
    BatchRetrySettings,
    CodeConfiguration,
    CronTrigger,
    Environment,
    JobSchedule,
    Model,
    RecurrencePattern,
    RecurrenceTrigger,
)
from azure.ai.ml.exceptions import JobException
from azure.ai.ml.parallel import RunFunction, parallel_run_function
from azure.ai.ml.sweep import BanditPolicy, Choice, Uniform
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from flows.expect import names, raises
from flows.jobs import IMAGE, files, streamed

WORDS = "does not run"


def ended_at_once(place, submitted) -> None:
    """The job is there, has failed for the one reason, and every way of looking at it says so."""
    shown = place.ml.jobs.get(submitted.name)
    assert shown.status == "Failed" and shown.type == submitted.type
    raises(JobException, WORDS, streamed, place, submitted.name)
    assert submitted.name in names(place.ml.jobs.list())
    assert list(place.ml.jobs.list(parent_job_name=submitted.name)) == []
    place.ml.jobs.download(submitted.name, download_path=str(place.folder / submitted.name))
    assert files(place.folder / submitted.name) == {}
    place.ml.jobs.archive(submitted.name)
    place.ml.jobs.restore(submitted.name)


def step(**changes):
    return command(
        **{
            "name": "step",
            "command": "echo ${{inputs.n}} > ${{outputs.out}}/n.txt",
            "environment": Environment(image=IMAGE),
            "inputs": {"n": Input(type="integer", default=3)},
            "outputs": {"out": Output(type=AssetTypes.URI_FOLDER)},
            **changes,
        }
    )


def a_sweep_is_kept_and_says_that_it_does_not_run(place) -> None:
    trial = command(
        command="echo ${{inputs.lr}} ${{inputs.batch}}",
        environment=Environment(image=IMAGE),
        inputs={"lr": 0.1, "batch": 16},
        # Under its bare name, which the SDK keeps for runs on its own machine, a sweep fails in the client.
        compute="azureml:local",
    )
    sweep = trial(lr=Uniform(min_value=0.01, max_value=0.1), batch=Choice([16, 32])).sweep(
        sampling_algorithm="random", primary_metric="accuracy", goal="maximize"
    )
    sweep.set_limits(max_total_trials=3, max_concurrent_trials=2, timeout=1200, trial_timeout=300)
    sweep.early_termination = BanditPolicy(slack_factor=0.1, evaluation_interval=2, delay_evaluation=1)
    sweep.display_name = "swept"
    submitted = place.ml.jobs.create_or_update(sweep)
    shown = place.ml.jobs.get(submitted.name)
    assert (shown.type, shown.display_name, shown.objective.primary_metric, shown.objective.goal) == (
        "sweep",
        "swept",
        "accuracy",
        "maximize",
    )
    assert set(shown.search_space) == {"lr", "batch"} and shown.search_space["batch"].values == [16, 32]
    assert (shown.search_space["lr"].min_value, shown.search_space["lr"].max_value) == (0.01, 0.1)
    assert (shown.limits.max_total_trials, shown.limits.max_concurrent_trials, shown.limits.timeout) == (3, 2, 1200)
    assert shown.early_termination.slack_factor == 0.1 and "search_space" in shown.trial.command
    ended_at_once(place, submitted)


def a_pipeline(place, **settings):
    @dsl.pipeline(name="piped", description="two steps", **settings)
    def piped(n=4):
        first = step()(n=n)
        second = command(
            name="second",
            command="ls ${{inputs.data}}",
            environment=Environment(image=IMAGE),
            inputs={"data": Input(type=AssetTypes.URI_FOLDER)},
            outputs={"model": Output(type=AssetTypes.URI_FOLDER)},
        )(data=first.outputs.out)
        return {"model": second.outputs.model}

    made = piped(n=4)
    made.settings.default_compute = "local"
    return made


def a_pipeline_is_kept_and_says_that_it_does_not_run(place) -> None:
    submitted = place.ml.jobs.create_or_update(a_pipeline(place), experiment_name="pipelines")
    shown = place.ml.jobs.get(submitted.name)
    assert shown.type == "pipeline" and len(shown.jobs) == 2 and shown.experiment_name == "pipelines"
    assert shown.settings.default_compute.endswith("local") and set(shown.outputs) == {"model"}
    assert str(shown.inputs["n"]._data) == "4"
    ended_at_once(place, submitted)


def a_pipeline_of_a_yaml_file_is_kept(place) -> None:
    source = place.file(
        "pipeline.yml",
        "$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json\ntype: pipeline\n"
        "settings:\n  default_compute: azureml:local\ninputs:\n  n: 3\njobs:\n  one:\n    command: echo ${{inputs.n}} > ${{outputs.out}}/n\n"
        f"    environment:\n      image: {IMAGE}\n    inputs:\n      n: ${{{{parent.inputs.n}}}}\n    outputs:\n      out:\n        type: uri_folder\n",
    )
    submitted = place.ml.jobs.create_or_update(load_job(source))
    assert set(place.ml.jobs.get(submitted.name).jobs) == {"one"}
    ended_at_once(place, submitted)


def a_pipeline_with_a_parallel_step_is_kept(place) -> None:
    place.file("par/score.py", "def init():\n    pass\n\ndef run(batch):\n    return batch\n")
    parallel = parallel_run_function(
        name="many",
        inputs={"data": Input(type=AssetTypes.URI_FOLDER, mode="ro_mount")},
        outputs={"o": Output(type=AssetTypes.URI_FILE)},
        input_data="${{inputs.data}}",
        instance_count=2,
        mini_batch_size="1",
        mini_batch_error_threshold=5,
        max_concurrency_per_instance=2,
        retry_settings={"max_retries": 2, "timeout": 60},
        logging_level="DEBUG",
        task=RunFunction(
            code=str(place.folder / "par"), entry_script="score.py", environment=Environment(image=IMAGE), append_row_to="${{outputs.o}}"
        ),
    )
    place.file("rows/a.txt", "a\n")

    @dsl.pipeline(default_compute="local")
    def batched(data):
        parallel(data=data)

    submitted = place.ml.jobs.create_or_update(batched(data=Input(type=AssetTypes.URI_FOLDER, path=str(place.folder / "rows"))))
    (node,) = place.ml.jobs.get(submitted.name).jobs.values()
    assert node.type == "parallel" and node.mini_batch_size == 1 and node.retry_settings.max_retries == 2
    ended_at_once(place, submitted)


def a_pipeline_component_is_kept(place) -> None:
    made = place.ml.components.create_or_update(a_pipeline(place).component, version="1")
    shown = place.ml.components.get(made.name, made.version)
    assert shown.type == "pipeline" and len(shown.jobs) == 2


def batch_endpoints_and_deployments_are_kept_and_refuse_to_score(place) -> None:
    place.file("code/score.py", "def init():\n    pass\n\ndef run(batch):\n    return batch\n")
    place.ml.batch_endpoints.begin_create_or_update(BatchEndpoint(name="sdk-batch", description="d", tags={"a": "b"})).result()
    model = place.ml.models.create_or_update(Model(name="batchmodel", path=place.file("m.txt", "m")))
    deployment = BatchDeployment(
        name="first",
        endpoint_name="sdk-batch",
        model=model,
        code_configuration=CodeConfiguration(code=str(place.folder / "code"), scoring_script="score.py"),
        environment=Environment(image=IMAGE),
        compute="local",
        instance_count=2,
        mini_batch_size=10,
        max_concurrency_per_instance=2,
        output_action="append_row",
        output_file_name="predictions.csv",
        retry_settings=BatchRetrySettings(max_retries=3, timeout=60),
        logging_level="info",
        environment_variables={"A": "b"},
    )
    place.ml.batch_deployments.begin_create_or_update(deployment).result()
    shown = place.ml.batch_deployments.get("first", "sdk-batch")
    assert (shown.mini_batch_size, shown.retry_settings.max_retries, shown.environment_variables) == (10, 3, {"A": "b"})
    assert shown.model == model.id and shown.output_file_name == "predictions.csv"
    endpoint = place.ml.batch_endpoints.get("sdk-batch")
    endpoint.defaults.deployment_name = "first"
    place.ml.batch_endpoints.begin_create_or_update(endpoint).result()
    assert place.ml.batch_endpoints.get("sdk-batch").defaults.deployment_name == "first"
    assert "sdk-batch" in names(place.ml.batch_endpoints.list()) and names(place.ml.batch_deployments.list("sdk-batch")) == {"first"}
    place.file("rows/a.txt", "a\n")
    rows = Input(type=AssetTypes.URI_FOLDER, path=str(place.folder / "rows"))
    raises(Exception, "does not run batch endpoints", lambda: place.ml.batch_endpoints.invoke("sdk-batch", input=rows))
    assert list(place.ml.batch_endpoints.list_jobs("sdk-batch")) == []
    place.ml.batch_endpoints.begin_delete("sdk-batch").result()
    raises(ResourceNotFoundError, "sdk-batch", place.ml.batch_endpoints.get, "sdk-batch")


def schedules_are_kept_disabled(place) -> None:
    pattern = RecurrencePattern(hours=10, minutes=[0, 30])
    recurrence = RecurrenceTrigger(frequency="day", interval=1, schedule=pattern, start_time=datetime(2030, 1, 1, tzinfo=UTC))
    schedule = JobSchedule(name="daily", trigger=recurrence, create_job=a_pipeline(place), description="d", tags={"a": "b"})
    made = place.ml.schedules.begin_create_or_update(schedule).result()
    shown = place.ml.schedules.get("daily")
    assert made.is_enabled is False and shown.is_enabled is False and shown.provisioning_state == "Succeeded"
    assert (shown.trigger.frequency, shown.trigger.interval, shown.trigger.schedule.minutes) == ("day", 1, [0, 30])
    assert len(shown.create_job.jobs) == 2 and shown.tags == {"a": "b"}
    submitted = place.ml.jobs.create_or_update(a_pipeline(place))
    of_a_job = JobSchedule(name="cron", trigger=CronTrigger(expression="15 10 * * 1"), create_job=submitted.id)
    place.ml.schedules.begin_create_or_update(of_a_job).result()
    assert place.ml.schedules.get("cron").trigger.expression == "15 10 * * 1"
    assert {"daily", "cron"} <= names(place.ml.schedules.list(list_view_type="DisabledOnly"))
    assert list(place.ml.schedules.list(list_view_type="EnabledOnly")) == []
    raises(HttpResponseError, "does not run schedules", lambda: place.ml.schedules.begin_enable("daily").result())
    raises(HttpResponseError, "does not run schedules", place.ml.schedules.trigger, "daily")
    place.ml.schedules.begin_disable("daily").result()
    for name in ("daily", "cron"):
        place.ml.schedules.begin_delete(name).result()
    raises(ResourceNotFoundError, "daily", place.ml.schedules.get, "daily")
