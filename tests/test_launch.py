"""Which rank this process is, told by the variables that launchers set; one of them alone is no launcher."""

import pytest

from ift import launch
from ift.errors import ConfigError
from ift.launch import Launch, devices_and_nodes, read

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "a", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2",
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "prterun-a-12@1",
}  # fmt: skip
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
ADDRESS = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "by"),
    [
        (TORCHRUN, "torchrun"),
        (SRUN, "srun"),
        (OPEN_MPI, "mpirun"),
        (MPICH | ADDRESS, "mpirun"),
        (SRUN | TORCHRUN, "torchrun"),  # a torchrun for each node
    ],
)
def test_the_sixth_of_eight_processes_on_two_nodes(environment, by):
    found = read(environment)
    assert (found.by, found.rank, found.world, found.local_rank, found.local_world) == (by, 5, 8, 1, 4)
    assert (found.nodes, found.node_rank, found.external) == (2, 1, True)


def test_lightning_starts_the_other_ranks_of_a_command_by_itself():
    found = read(LIGHTNING)
    assert (found.by, found.rank, found.world, found.nodes, found.external) == ("lightning", 1, 2, 1, False)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LOCAL_RANK": "1"},  # left behind in a shell
        {"RANK": "1"},
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"},  # salloc
        {**SRUN, "SLURM_JOB_NAME": "bash"},
        {**SRUN, "SLURM_JOB_NAME": "interactive"},
        {**SRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},  # srun --pty, or a task that starts the others itself
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_ID": "", "ENVIRONMENT": "BATCH"},  # the script of sbatch
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
    ],
)
def test_no_launcher_started_this(environment):
    assert read(environment) == Launch()


def test_srun_in_a_script_of_sbatch_is_a_launcher():
    assert read({**SRUN, "ENVIRONMENT": "BATCH"}).by == "srun"


def test_a_pod_with_one_process_is_a_node():
    """Kubeflow sets no local rank."""
    found = read({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert (found.by, found.rank, found.local_rank, found.nodes) == ("the environment", 1, 0, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "8"}, "torchrun: rank 8 of 8"),
        ({"LOCAL_RANK": "4"}, "local rank 4 of 4: no such process"),
        ({"WORLD_SIZE": "7"}, "torchrun: 7 processes, 4 on this node"),
        ({"RANK": "x"}, "RANK=x: not a number"),
    ],
)
def test_numbers_that_contradict_each_other_are_one_line(changes, words):
    with pytest.raises(ConfigError, match=words):
        read({**TORCHRUN, **changes})


def test_mpich_on_several_nodes_needs_an_address_for_all():
    with pytest.raises(ConfigError, match="set MASTER_ADDR and MASTER_PORT"):
        read(MPICH)
    assert (
        read({**MPICH, "PMI_SIZE": "4", "PMI_RANK": "1"}).key == read({**MPICH, "PMI_SIZE": "4", "PMI_RANK": "2"}).key
    )


def test_two_starts_have_two_keys_and_the_ranks_of_one_have_the_same():
    assert read({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}).key == read(TORCHRUN).key
    others = [{"MASTER_PORT": "29501"}, {"TORCHELASTIC_RUN_ID": "b"}, {"TORCHELASTIC_RESTART_COUNT": "1"}]
    assert len({read({**TORCHRUN, **other}).key for other in [{}, *others]}) == 4
    assert read(SRUN).key != read({**SRUN, "SLURM_STEP_ID": "1"}).key != read({**SRUN, "SLURM_RESTART_COUNT": "1"}).key


def test_a_stray_local_rank_is_taken_away_before_lightning_sees_it(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(launch, "here", lambda: read({"LOCAL_RANK": "1"}))
    launch.settle()
    assert "LOCAL_RANK" not in launch.os.environ
    assert not launch.is_other_rank()


@pytest.mark.parametrize("nodes", [None, 2])
@pytest.mark.parametrize("devices", [None, 4])
def test_devices_and_nodes_come_from_the_launcher(monkeypatch, devices, nodes):
    monkeypatch.setattr(launch, "here", lambda: read(TORCHRUN))
    assert devices_and_nodes(devices, nodes, otherwise=1) == (4, 2)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "words"),
    [
        (TORCHRUN, 2, None, "trainer.devices=2: torchrun started 4 processes on each node"),
        (SRUN, 4, 1, "trainer.nodes=1: srun started processes on 2"),
        ({}, 4, 2, "trainer.nodes=2: nothing started this on several nodes"),
    ],
)
def test_settings_that_contradict_the_launcher_are_one_line(monkeypatch, environment, devices, nodes, words):
    monkeypatch.setattr(launch, "here", lambda: read(environment))
    with pytest.raises(ConfigError, match=words):
        devices_and_nodes(devices, nodes, otherwise=1)


def test_without_a_launcher_the_settings_hold(monkeypatch):
    monkeypatch.setattr(launch, "here", lambda: read({}))
    assert devices_and_nodes(3, None, otherwise=1) == (3, 1)
    assert devices_and_nodes(None, 1, otherwise=2) == (2, 1)
