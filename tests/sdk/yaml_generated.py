"""Documents of every kind, generated: what `test_yaml_documents` puts to the SDK's loaders and to ours.

Local paths among them are those of `FILES`, which have to lie beside the document.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind

FILES = {
    "src/train.py": "print('hello')\n",
    "weights.bin": "w\n",
    "context/Dockerfile": "FROM python:3.11\n",
    "conda.yml": "name: c\nchannels: [conda-forge]\ndependencies: [python=3.11, pip, {pip: [numpy]}]\n",
    "environment.yml": "name: filed\nversion: 2\nimage: python:3.11\nconda_file: conda.yml\n",
    "step.yml": "type: command\nname: step\nversion: 4\ncommand: echo ${{inputs.n}} > ${{outputs.o}}/a\nenvironment: azureml:e:1\n"
    "inputs: {n: {type: integer, default: 3}}\noutputs: {o: {type: uri_folder}}\n",
    "nightly.yml": "type: pipeline\nexperiment_name: nightly\njobs:\n  a:\n    command: echo 1\n    environment: azureml:e:1\n    compute: azureml:k8s\n",
}

_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9 .-]{0,12}[A-Za-z0-9]", fullmatch=True).filter(lambda text: text.lower() not in _YAML_WORDS)
TEXTS = st.one_of(WORDS, st.integers(0, 99).map(str))
LITERALS = st.one_of(WORDS, st.integers(-9, 10**6), st.booleans(), st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3)))
NUMBERS = st.integers(1, 99)
TAGS = st.dictionaries(NAMES, TEXTS, max_size=2)
REFERENCES = st.sampled_from(["azureml:d:1", "azureml:d.x-2:10", "azureml:d@latest", "azureml://datastores/workspaceblobstore/paths/p/"])
ENVIRONMENTS = st.sampled_from(
    ["azureml:e:1", "azureml:e@latest", "azureml:AzureML-x-1.0:3", "azureml://registries/azureml/environments/x/versions/2"]
)


def made(required: Manifest | None = None, /, **optional: Any) -> st.SearchStrategy[Manifest]:
    """Mappings with all of `required` and some of the others; what is no strategy stands for itself."""
    strategies = {name: each if isinstance(each, st.SearchStrategy) else st.just(each) for name, each in (required or {}).items()}
    return st.fixed_dictionaries(strategies, optional=optional)


def one(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def merged(*parts: st.SearchStrategy[Manifest]) -> st.SearchStrategy[Manifest]:
    """Mappings of the fields of all parts; the last one counts."""
    return st.tuples(*parts).map(lambda found: {name: value for part in found for name, value in part.items()})


INPUTS = st.dictionaries(
    NAMES,
    st.one_of(
        LITERALS,
        made(
            {"type": one("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model"), "path": REFERENCES},
            mode=one("ro_mount", "download", "direct"),
        ),
    ),
    max_size=3,
)
OUTPUTS = st.dictionaries(
    NAMES,
    made(
        {"type": one("uri_file", "uri_folder", "mlflow_model")},
        mode=one("rw_mount", "upload"),
        path=st.just("azureml://datastores/workspaceblobstore/paths/o"),
    ),
    max_size=2,
)
DISTRIBUTIONS = st.one_of(
    made({"type": one("pytorch", "mpi"), "process_count_per_instance": st.integers(1, 8)}),
    made({"type": "tensorflow", "worker_count": st.integers(1, 4)}, parameter_server_count=st.integers(0, 2)),
)
RESOURCES = made(instance_count=st.integers(1, 9), instance_type=NAMES, shm_size=one("2g", "512m"), docker_args=st.just("--x"))
ABOUT = {"display_name": WORDS, "experiment_name": NAMES, "description": WORDS, "tags": TAGS}
TRIAL = {"environment_variables": st.dictionaries(NAMES, TEXTS, max_size=2), "distribution": DISTRIBUTIONS, "resources": RESOURCES}
IDENTITIES = one({"type": "managed"}, {"type": "aml_token"}, {"type": "user_identity"})

# Jobs

COMMANDS = made(
    {"type": "command", "command": WORDS, "environment": ENVIRONMENTS},
    **ABOUT,
    **TRIAL,
    inputs=INPUTS,
    outputs=OUTPUTS,
    compute=st.just("azureml:k8s"),
    limits=made({"timeout": st.integers(1, 500).map(lambda minutes: minutes * 60)}),
    queue_settings=made({"job_tier": one("spot", "standard")}),
    identity=IDENTITIES,
)
SPACES = st.one_of(
    made({"type": "choice", "values": st.lists(st.one_of(NUMBERS, WORDS), min_size=1, max_size=3)}),
    made({"type": one("uniform", "loguniform"), "min_value": NUMBERS, "max_value": NUMBERS}),
    made({"type": one("quniform", "qloguniform"), "min_value": NUMBERS, "max_value": NUMBERS, "q": NUMBERS}),
    made({"type": one("normal", "lognormal"), "mu": NUMBERS, "sigma": NUMBERS}),
    made({"type": one("qnormal", "qlognormal"), "mu": NUMBERS, "sigma": NUMBERS, "q": NUMBERS}),
    made({"type": "randint", "upper": NUMBERS}),
)
SWEEP = {
    "search_space": st.dictionaries(NAMES, SPACES, min_size=1, max_size=3),
    "objective": made({"goal": one("maximize", "minimize"), "primary_metric": NAMES}),
    "limits": made({"max_total_trials": NUMBERS}, max_concurrent_trials=NUMBERS),
    "sampling_algorithm": one("random", "grid", "bayesian", {"type": "random", "seed": 3, "rule": "sobol"}),
}
TERMINATION = st.one_of(
    made({"type": "bandit", "slack_factor": 0.1}, delay_evaluation=NUMBERS),
    made({"type": "median_stopping"}, evaluation_interval=NUMBERS),
    made({"type": "truncation_selection", "truncation_percentage": NUMBERS}),
)
SWEEPS = made(
    {"type": "sweep", "trial": made({"command": WORDS, "environment": ENVIRONMENTS}, **TRIAL), **SWEEP},
    **ABOUT,
    inputs=INPUTS,
    outputs=OUTPUTS,
    early_termination=TERMINATION,
)
BOUND = st.dictionaries(
    NAMES, st.one_of(LITERALS, st.just("${{parent.inputs.n}}"), made({"type": "uri_folder", "path": REFERENCES})), max_size=2
)
STEPS = st.one_of(
    made(
        {"type": "command", "command": WORDS, "environment": ENVIRONMENTS},
        display_name=WORDS,
        description=WORDS,
        **TRIAL,
        inputs=BOUND,
        compute=st.just("azureml:k2"),
        code=st.just("./src"),
        limits=made({"timeout": st.integers(1, 500).map(lambda minutes: minutes * 60)}),
        identity=IDENTITIES,
    ),
    made({"type": "command", "component": one("azureml:comp:1", "azureml:comp@latest", "./step.yml")}, inputs=made(n=LITERALS)),
    made(
        {"type": "sweep", "trial": "./step.yml", **SWEEP},
        inputs=made(n=NUMBERS),
        early_termination=TERMINATION,
        compute=st.just("azureml:k2"),
    ),
)
PIPELINES = made(
    {
        "type": "pipeline",
        "jobs": st.dictionaries(NAMES, STEPS, min_size=1, max_size=3),
        "inputs": INPUTS.map(lambda found: {**found, "n": 3}),
    },
    **ABOUT,
    outputs=OUTPUTS,
    compute=st.just("azureml:k8s"),
    settings=made(
        default_compute=st.just("azureml:k8s"),
        default_datastore=st.just("azureml:workspaceblobstore"),
        continue_on_step_failure=st.booleans(),
        force_rerun=st.booleans(),
    ),
)

# Assets

ASSET = {"version": st.one_of(NUMBERS, NUMBERS.map(str)), "description": WORDS, "tags": TAGS}
ENVIRONMENT_DOCUMENTS = st.one_of(
    made(
        {"name": NAMES, "image": one("python:3.11", "mcr.example.org/a/b@sha256:0")},
        **ASSET,
        conda_file=one("conda.yml", "./conda.yml", {"channels": ["conda-forge"], "dependencies": ["python=3.11", "pip", {"pip": ["six"]}]}),
        os_type=st.just("linux"),
        inference_config=made(
            {f"{route}_route": made({"port": NUMBERS, "path": one("/", "/score")}) for route in ("liveness", "readiness", "scoring")}
        ),
    ),
    made({"name": NAMES, "build": made({"path": "./context"}, dockerfile_path=st.just("Dockerfile"))}, **ASSET),
)
MODEL_DOCUMENTS = made(
    {"name": NAMES, "path": one("./src", "weights.bin", "azureml://jobs/j/outputs/o", "azureml://datastores/d/paths/m/", "runs:/j/m")},
    **ASSET,
    properties=TAGS,
    type=one("custom_model", "mlflow_model", "triton_model"),
    flavors=st.dictionaries(NAMES, st.dictionaries(NAMES, WORDS, min_size=1, max_size=2), max_size=2),
    stage=one("Production", "Staging"),
)
DATA_DOCUMENTS = st.one_of(
    made({"name": NAMES, "path": "./src", "type": "uri_folder"}, **ASSET),
    made({"name": NAMES, "path": "weights.bin", "type": "uri_file"}, **ASSET),
    made(
        {
            "name": NAMES,
            "path": one("azureml://datastores/d/paths/a/b", "https://example.org/a.csv", "wasbs://c@a.blob.core.windows.net/p"),
            "type": one("uri_file", "uri_folder"),
        },
        **ASSET,
    ),
)
PORTS = st.one_of(
    made({"type": "integer"}, default=NUMBERS, min=st.just(1), max=st.just(99), optional=st.booleans(), description=WORDS),
    made({"type": "number"}, default=NUMBERS, min=st.just(0.5)),
    made({"type": "string"}, default=one("a", "b"), enum=st.just(["a", "b"]), optional=st.booleans()),
    made({"type": "boolean"}, default=st.booleans()),
    made({"type": one("uri_file", "uri_folder", "mltable", "mlflow_model")}, mode=one("ro_mount", "download"), optional=st.booleans()),
)
WRITTEN = st.dictionaries(
    NAMES, made({"type": one("uri_file", "uri_folder")}, mode=one("rw_mount", "upload"), description=WORDS), max_size=2
)
COMPONENT = {
    "display_name": WORDS,
    "description": WORDS,
    "tags": TAGS,
    "is_deterministic": st.booleans(),
    "inputs": st.dictionaries(NAMES, PORTS, max_size=3),
    "outputs": WRITTEN,
}
COMPONENTS = st.one_of(
    made(
        {"type": "command", "name": NAMES, "version": NUMBERS, "command": WORDS, "environment": ENVIRONMENTS},
        **COMPONENT,
        code=st.just("./src"),
        resources=RESOURCES,
        distribution=DISTRIBUTIONS,
    ),
    made(
        {
            "type": "parallel",
            "name": NAMES,
            "version": NUMBERS,
            "inputs": {"data": {"type": "uri_folder"}},
            "outputs": {"o": {"type": "uri_file"}},
            "input_data": "${{inputs.data}}",
            "mini_batch_size": one("5", "10kb"),
            "task": made(
                {"type": "run_function", "code": "./src", "entry_script": "train.py", "environment": ENVIRONMENTS},
                program_arguments=WORDS,
                append_row_to=st.just("${{outputs.o}}"),
            ),
        },
        display_name=WORDS,
        resources=RESOURCES,
        logging_level=one("INFO", "DEBUG"),
        retry_settings=made(max_retries=NUMBERS, timeout=NUMBERS),
        max_concurrency_per_instance=NUMBERS,
        mini_batch_error_threshold=NUMBERS,
    ),
    made(
        {
            "type": "pipeline",
            "name": NAMES,
            "version": NUMBERS,
            "jobs": st.dictionaries(NAMES, STEPS, min_size=1, max_size=2),
            "inputs": {"n": {"type": "integer", "default": 3}},
        },
        display_name=WORDS,
        description=WORDS,
        tags=TAGS,
        outputs=WRITTEN,
        settings=made(default_compute=st.just("azureml:k8s"), continue_on_step_failure=st.booleans()),
    ),
)

# Places

_STORE = {"description": WORDS, "tags": TAGS, "endpoint": one("core.windows.net", "core.local"), "protocol": one("https", "http")}
_PRINCIPAL = {"tenant_id": NAMES, "client_id": NAMES}
DATASTORES = st.one_of(
    made(
        {"type": "azure_blob", "name": NAMES, "account_name": NAMES, "container_name": NAMES},
        **_STORE,
        credentials=st.one_of(made({"account_key": "bW9v"}), made({"sas_token": one("?sv=1", "sv=1&sig=a")})),
    ),
    made(
        {"type": "azure_data_lake_gen2", "name": NAMES, "account_name": NAMES, "filesystem": NAMES},
        **_STORE,
        credentials=st.one_of(
            made(
                {**_PRINCIPAL, "client_secret": WORDS},
                authority_url=st.just("https://login.example.org"),
                resource_url=st.just("https://r"),
            ),
            made({**_PRINCIPAL, "thumbprint": NAMES, "certificate": NAMES}),
        ),
    ),
)
_USER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
ASSIGNED = one(
    {"type": "system_assigned"},
    {"type": "user_assigned", "user_assigned_identities": [{"resource_id": f"{_USER}i"}]},
    {"type": "user_assigned", "user_assigned_identities": [{"resource_id": f"{_USER}i"}, {"resource_id": f"{_USER}j"}]},
)
COMPUTES = made(
    {
        "type": "kubernetes",
        "name": NAMES,
        "namespace": one("default", "team-a"),
        "resource_id": one(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c",
        ),
    },
    description=WORDS,
    tags=TAGS,
    identity=ASSIGNED,
)
WORKSPACES = made(
    {"name": NAMES},
    display_name=WORDS,
    description=WORDS,
    tags=TAGS,
    location=NAMES,
    hbi_workspace=st.just(False),
    identity=one({"type": "system_assigned"}, {"type": "user_assigned", "user_assigned_identities": {f"{_USER}i": {}, f"{_USER}j": {}}}),
)

# Serving

SERVED = st.from_regex(r"[a-z][a-z0-9]{2,8}", fullmatch=True)
# Not those of the registry: the SDK refuses them on Kubernetes, where we have them.
SERVED_BY = one("azureml:e:1", "azureml:e@latest", "azureml:AzureML-x-1.0:3")
ENDPOINT = {"description": WORDS, "tags": TAGS, "properties": TAGS}
ENDPOINTS = made(
    {"name": SERVED, "compute": "azureml:k8s", "auth_mode": one("key", "aml_token", "KEY")},
    **ENDPOINT,
    traffic=one({"blue": 90, "green": 10}, {"blue": 100}),
    mirror_traffic=st.just({"green": 10}),
    identity=one({"type": "system_assigned"}, {"type": "user_assigned", "user_assigned_identities": [{"resource_id": f"{_USER}i"}]}),
)
# With its environment, and scaling without a count: each alone is refused here when the document is read, there when it is carried out.
SCRIPT = one({}, {"code_configuration": {"code": "./src", "scoring_script": "train.py"}, "environment": "azureml:e:1"})
PROBES = made(initial_delay=NUMBERS, period=NUMBERS, timeout=NUMBERS, failure_threshold=NUMBERS, success_threshold=NUMBERS)
AMOUNTS = made({"cpu": one("1", "100m", "0.5"), "memory": one("1Gi", "512Mi")})
DEPLOYMENTS = made(
    {"type": "kubernetes", "name": "blue", "endpoint_name": "digits", "model": one("azureml:m:1", "azureml:m@latest")},
    **ENDPOINT,
    environment=SERVED_BY,
    instance_type=NAMES,
    app_insights_enabled=st.booleans(),
    model_mount_path=st.just("/var/models"),
    environment_variables=st.dictionaries(NAMES, TEXTS, max_size=2),
    request_settings=made(
        request_timeout_ms=NUMBERS.map(lambda n: n * 1000),
        max_concurrent_requests_per_instance=NUMBERS,
        max_queue_wait_ms=NUMBERS.map(lambda n: n * 100),
    ),
    liveness_probe=PROBES,
    readiness_probe=PROBES,
    resources=made({"requests": AMOUNTS}, limits=AMOUNTS),
)
SCALED = st.one_of(
    made(instance_count=NUMBERS, scale_settings=st.just({"type": "default"})),
    made(
        scale_settings=made(
            {"type": "target_utilization"},
            min_instances=st.just(1),
            max_instances=NUMBERS,
            polling_interval=NUMBERS,
            target_utilization_percentage=NUMBERS,
        )
    ),
)
BATCH_ENDPOINTS = made({"name": SERVED, "auth_mode": "aad_token"}, **ENDPOINT, defaults=made({"deployment_name": NAMES}))
BATCH_DEPLOYMENTS = made(
    {"name": SERVED, "endpoint_name": SERVED, "model": one("azureml:m:1", "azureml:m@latest"), "compute": "azureml:k8s"},
    **ENDPOINT,
    type=st.just("model"),
    environment=ENVIRONMENTS,
    resources=made({"instance_count": NUMBERS}),
    settings=made(
        # Without it the SDK's class refuses its own settings.
        {"mini_batch_size": NUMBERS},
        max_concurrency_per_instance=NUMBERS,
        output_action=one("append_row", "summary_only"),
        retry_settings=made({"max_retries": NUMBERS, "timeout": NUMBERS}),
        logging_level=one("info", "debug", "warning"),
        error_threshold=NUMBERS,
        environment_variables=st.dictionaries(NAMES, TEXTS, max_size=2),
    ),
)
_WHEN = {
    "start_time": one("2030-01-01T00:00:00", "2030-01-01 10:30:00"),
    "end_time": st.just("2031-01-01T00:00:00"),
    "time_zone": one("UTC", "Pacific Standard Time"),
}
SCHEDULES = made(
    {
        "name": NAMES,
        "create_job": one("./nightly.yml", "azureml:job1", {"job": "./nightly.yml", "experiment_name": "x"}),
        "trigger": st.one_of(
            made({"type": "cron", "expression": one("0 * * * *", "15 16 * * 1-5")}, **_WHEN),
            made(
                {"type": "recurrence", "frequency": one("minute", "hour", "day", "week", "month"), "interval": NUMBERS},
                **_WHEN,
                schedule=made(
                    {
                        "hours": st.lists(st.integers(0, 23), min_size=1, max_size=2),
                        "minutes": st.lists(st.integers(0, 59), min_size=1, max_size=2),
                    },
                    week_days=one(["monday"], ["monday", "sunday"]),
                ),
            ),
        ),
    },
    display_name=WORDS,
    description=WORDS,
    tags=TAGS,
)

EVERY: dict[str, tuple[Kind, st.SearchStrategy[Manifest]]] = {
    "command": (Kind.JOB, COMMANDS),
    "sweep": (Kind.JOB, SWEEPS),
    "pipeline": (Kind.JOB, PIPELINES),
    "environment": (Kind.ENVIRONMENT, ENVIRONMENT_DOCUMENTS),
    "model": (Kind.MODEL, MODEL_DOCUMENTS),
    "data": (Kind.DATA, DATA_DOCUMENTS),
    "component": (Kind.COMPONENT, COMPONENTS),
    "datastore": (Kind.DATASTORE, DATASTORES),
    "compute": (Kind.COMPUTE, COMPUTES),
    "workspace": (Kind.WORKSPACE, WORKSPACES),
    "online-endpoint": (Kind.ENDPOINT, ENDPOINTS),
    "online-deployment": (Kind.DEPLOYMENT, merged(DEPLOYMENTS, SCRIPT, SCALED)),
    "batch-endpoint": (Kind.BATCH_ENDPOINT, BATCH_ENDPOINTS),
    "batch-deployment": (Kind.BATCH_DEPLOYMENT, merged(BATCH_DEPLOYMENTS, SCRIPT)),
    "schedule": (Kind.SCHEDULE, SCHEDULES),
}
