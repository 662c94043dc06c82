"""A launcher, its ranks and what happens to them: the project's own decisions, simulated machines.

Real: `training.loop.train` with its saving, the stop agreement and its guard, the checkpoint
writer, the hang watch, the run lock, and what the launcher decides. Simulated: clock, threads,
signals, collective operations, disks, and torch's agent.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sim_scheduler import Killed, Process, Scheduler

from ixt.checkpoint.writer import CheckpointWriter
from ixt.distributed import stop_agreement
from ixt.distributed.launch import ending, rank_file
from ixt.distributed.launch.ending import Left, Oversight, Stopped, stopped_message, stopped_status
from ixt.distributed.launch.failures import find_cause
from ixt.distributed.launch.rank_file import RankReport
from ixt.distributed.launch.worker import describe
from ixt.distributed.signals import STOP_SIGNALS, Received, StopRequest
from ixt.distributed.stop_agreement import StopAgreement
from ixt.errors import CheckpointError, Interrupted, PeerLost
from ixt.monitor import activity
from ixt.monitor.hang import Ending, Progress, Watch
from ixt.monitor.positions import Peer, Position
from ixt.training import loop, saving, state
from ixt.training.patience import Patience

HANG_S = 8.0
TICK_S = 0.25  # of the launcher, which looks more often in life
HOST = "simulated"
LOSS = torch.zeros(())


RECIPE: Any = SimpleNamespace(run=SimpleNamespace(seed=0), model_dump=lambda **_: {})
"""What the loop asks of a recipe."""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.scheduler = Scheduler(seed)
        self.random = self.scheduler.random
        self.run_dir = folder
        self.nccl = self.random.random() < 0.5
        """Collectives wait for ever for a process that is gone."""
        self.write_s = self.random.choice([0.1, 2.0, 12.0])
        self.saves: list[tuple[str, int, float]] = []
        """Run, step and end of each checkpoint that was written."""
        self.in_the_lock: list[str] = []
        self.next_pid = 100

    def pid(self) -> int:
        """A new process number."""
        self.next_pid += 1
        return self.next_pid

    def current(self) -> Rank:
        """The rank whose thread runs."""
        task = self.scheduler.current
        assert task is not None and isinstance(task.process, Rank)
        return task.process


class Listener:
    """The wake-up descriptor of a simulated process: signals in the order of their arrival."""

    def __init__(self, receive: Callable[[int], None]) -> None:
        self._receive = receive
        self.arrived: list[int] = []

    def drain(self) -> None:
        """As `SignalListener.drain`."""
        while self.arrived:
            self._receive(self.arrived.pop(0))


class Stop(StopRequest):
    """A real stop request on simulated signals."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank
        self.received = Received(lambda: rank.world.scheduler.now_s, forced=False)
        self.arrivals = Listener(self._receive)
        self._listener = self.arrivals  # type: ignore[assignment]

    def __enter__(self) -> Stop:
        self._previous = dict.fromkeys(STOP_SIGNALS)
        scheduler, arrivals = self._rank.world.scheduler, self.arrivals

        def listen() -> None:
            while True:
                scheduler.block(lambda: bool(arrivals.arrived), None)
                arrivals.drain()

        scheduler.spawn(self._rank, listen, "signals")
        self._rank.stop = self
        return self

    def __exit__(self, *_: object) -> None:
        self._rank.stop = None


class Group:
    """Collective operations of a run."""

    def __init__(self, world: World, ranks: list[Rank], gloo: bool) -> None:
        self._world, self._ranks, self._gloo = world, ranks, gloo
        self._given: dict[int, dict[int, int]] = {}
        self._count = [0] * len(ranks)

    def give(self, rank: Rank, number: int = 0) -> int:
        """Take part in the next operation, without waiting; its index."""
        index = self._count[rank.number]
        self._count[rank.number] += 1
        self._given.setdefault(index, {})[rank.number] = number
        return index

    def take(self, rank: Rank, index: int) -> int:
        """Wait for the others; the smallest number."""
        given = self._given[index]

        def lost() -> bool:
            absent = (one for one in self._ranks if one.number not in given)
            return self._gloo and any(one.dead for one in absent)

        rank.waits = True
        self._world.scheduler.block(lambda: len(given) == len(self._ranks) or lost(), None)
        rank.waits = False
        if len(given) < len(self._ranks):
            raise PeerLost("connection closed by peer")
        return min(given.values())

    def meet(self, rank: Rank) -> None:
        """A barrier."""
        self.take(rank, self.give(rank))


class Votes:
    """The exchange of the stop agreement."""

    def __init__(self, rank: Rank, group: Group) -> None:
        self._rank, self._group, self._index = rank, group, 0

    def start(self, number: int) -> None:
        """As `Exchange.start`."""
        self._index = self._group.give(self._rank, number)

    def result(self) -> int:
        """As `Exchange.result`."""
        return self._group.take(self._rank, self._index)


class Board:
    """Positions in the run's folder, visible to all at once."""

    def __init__(self, rank: Rank) -> None:
        self._rank, self._files = rank, rank.launcher.files

    def write(self, position: Position) -> None:
        """As `positions.Board.write`."""
        self._files[self._rank.number] = position

    def read(self) -> dict[int, Position]:
        """As `positions.Board.read`."""
        return dict(self._files)

    def clear(self) -> None:
        """As `positions.Board.clear`."""
        self._files.pop(self._rank.number, None)


class Rank(Process):
    """A training process."""

    def __init__(self, launcher: Launcher, number: int) -> None:
        self.world, self.launcher, self.number = launcher.world, launcher, number
        super().__init__(f"{launcher.name} rank {number}", self.world.pid())
        self.exit_code: int | None = None
        self.exit_s = float("inf")
        self.report: RankReport | None = None
        self.waits = False
        self.stop: Stop | None = None
        self.arrived: list[int] = []
        """Signals that it could note, in order."""
        self.leaving = False
        self.ever_stopped: list[float] = []
        self._pending: set[int] = set()
        self._python: set[int] = set()
        self._activity: Any = SimpleNamespace(last=None, usual=6.0)
        self._step: Any = SimpleNamespace(step=None, file=None)
        self.timing = self.world.scheduler.timing(self)

    @property
    def step(self) -> int | None:
        """Updates done."""
        done: int | None = self._step.step
        return done

    def begin(self) -> None:
        """Start the process."""

        def swap_in() -> None:
            activity._Own, rank_file._Own = self._activity, self._step  # type: ignore[misc]
            os.environ["RANK"] = str(self.number)

        self.swap_in = swap_in
        task = self.world.scheduler.spawn(self, self._main, "main")
        task.before_resume = self._handle

    def deliver(self, number: int) -> None:
        """Receive a signal from the kernel."""
        if self.dead:
            return
        self.world.scheduler.say(f"{self.name} gets {signal.Signals(number).name}")
        if number == signal.SIGKILL:
            self.die(-number)
        elif number == signal.SIGSTOP:
            self.stopped = True
            self.ever_stopped.append(self.world.scheduler.now_s)
        elif number == signal.SIGCONT:
            self.stopped = False
            for one in sorted(self._pending):
                self._arrive(one)
            self._pending.clear()
        elif self.stopped:
            self._pending.add(number)
        else:
            self._arrive(number)

    def _arrive(self, number: int) -> None:
        if self.stop is not None:
            self.stop.arrivals.arrived.append(number)
            self.arrived.append(number)
            self._python.add(number)
        elif not self.leaving:
            self.die(-number)

    def _handle(self) -> None:
        """Run Python's signal handlers in the main thread: in the order of the numbers."""
        for number in sorted(self._python):
            self._python.discard(number)
            if self.stop is not None:
                self.stop._handle(number, None)

    def die(self, code: int, report: RankReport | None = None) -> None:
        """End, from anywhere."""
        if not self.dead:
            self.dead, self.exit_code, self.report = True, code, report
            self.exit_s = self.world.scheduler.now_s
            self.world.scheduler.say(f"{self.name} ends: {code} {report.message if report else ''}")

    def exit_now(
        self, reason: str, because_of_another: bool = False, in_full: bool = False
    ) -> None:
        """As `worker.exit_now`."""
        line = (
            reason
            if in_full or because_of_another
            else describe(HOST, self.number, self.step, reason)
        )
        self.die(1, RankReport(1, line, because_of_another))
        raise Killed

    def _main(self) -> None:
        self.world.scheduler.sleep(self.world.random.uniform(1, 3))
        try:
            loop.train(RECIPE, self.world.run_dir)
            self.die(0)
        except Interrupted as error:
            self.leaving = True
            self.world.scheduler.sleep(self.world.random.uniform(0, 0.3))
            self.die(128 + error.signum, RankReport(128 + error.signum, str(error)))
        except PeerLost as error:
            self.die(1, RankReport(1, f"another process is gone: {error}", True))
        except CheckpointError as error:
            self.die(2, RankReport(2, str(error)))
        except KeyboardInterrupt:
            self.die(130)

    def open_run(self) -> Any:
        """What `loop.train` trains."""
        world, group = self.world, self.launcher.group
        group.meet(self)
        if self.number == 0:
            world.in_the_lock.append(self.launcher.name)

        def micro_step(place: int, images: object, targets: object) -> torch.Tensor:
            world.scheduler.sleep(world.random.uniform(0.1, 0.4))
            group.meet(self)  # gradients
            return LOSS

        def update_done(step: int, loss: object) -> None:
            activity.update_done(step)

        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        batch = SimpleNamespace(images=None, targets=None, micro_batch=0)
        observers = SimpleNamespace(
            epoch_begins=nothing,
            batch_wanted=lambda: activity.note("waiting for data"),
            batch_ready=lambda *_: activity.note("computing"),
            update_done=update_done,
            rows_due=nothing,
        )
        every = self.launcher.save_every
        schedule = SimpleNamespace(
            due=lambda step: step % every == 0,
            rows_due=lambda step: False,
            evaluates=lambda step: False,
            ends_epoch=lambda step: step % 10 == 0,
        )
        return SimpleNamespace(
            run_dir=world.run_dir,
            name=self.launcher.name,
            total_steps=20,
            updates_per_epoch=10,
            train_loader=SimpleNamespace(epoch=lambda *_, **__: iter([batch] * 10)),
            wrapped=SimpleNamespace(train=nothing),
            accelerator=SimpleNamespace(
                gradient_accumulation_steps=1,
                is_main_process=self.number == 0,
                wait_for_everyone=lambda: group.meet(self),
            ),
            optimizer=None,
            learning_rate=nothing,
            observers=observers,
            schedule=schedule,
            micro_step=micro_step,
            phases=SimpleNamespace(begin_epoch=nothing),
            undo=None,
            teacher=None,
            model=None,
            ema=None,
            data={},
            ledger_format=2,
            base=None,
            from_scratch=True,
            patience=Patience(None),
            ended_early=None,
            reporter=SimpleNamespace(records=dict),
            report=SimpleNamespace(finish=nothing),
            class_names=(),
            recipe=RECIPE,
            writer=CheckpointWriter(True, self.number == 0, self.timing),
        )

    @contextmanager
    def watched(self, run: Any) -> Iterator[None]:
        """As `training.watch.watched`: the same things in the same order."""
        activity.restart()
        peers = [Peer(HOST, one.pid) for one in self.launcher.ranks]
        place = lambda: ("simulated", self.waits)  # noqa: E731
        progress = Progress(self.number, peers[self.number], HANG_S, place, self.timing)
        ending = Ending(run.run_dir, peers, self.exit_now, self.timing)
        watch = Watch(
            Board(self),  # type: ignore[arg-type]
            peers,
            HANG_S,
            progress.position,
            ending,
            lambda _: None,
            self.timing,
        )
        with ExitStack() as stack:
            request = stack.enter_context(Stop(self))
            watch.start()
            stack.callback(watch.close)
            votes = Votes(self, self.launcher.side_group)
            run.stop = stack.enter_context(
                StopAgreement(request, exchange=votes, timing=self.timing)
            )
            stack.enter_context(run.writer)
            yield
        if self.number == 0:
            self.world.in_the_lock.remove(self.launcher.name)


class Launcher(Process):
    """`ixt train --num-processes 2`: the real decisions, and torch's agent as it behaves."""

    def __init__(self, world: World, name: str, num_ranks: int) -> None:
        self.world = world
        super().__init__(name, world.pid())
        self.timing = world.scheduler.timing(self)
        self.received = Received(lambda: world.scheduler.now_s)
        self.oversight = Oversight(self, self.received, self.timing)
        self.ranks = [Rank(self, number) for number in range(num_ranks)]
        self.group = Group(world, self.ranks, gloo=not world.nccl)
        self.side_group = Group(world, self.ranks, gloo=True)
        self.files: dict[int, Position] = {}
        self.save_every = world.random.choice([3, 7, 100])
        self.started: list[Rank] = []
        self.arrived: list[tuple[float, int]] = []
        """Signals and their times."""
        self.status: int | None = None
        self.said = ""
        self.exit_s = float("inf")
        world.scheduler.spawn(self, self._main, "main")

    def deliver(self, number: int) -> None:
        """Receive a signal."""
        if not self.dead:
            self.world.scheduler.say(f"{self.name} gets {signal.Signals(number).name}")
            self.received.note(number)
            self.arrived.append((self.world.scheduler.now_s, number))

    def exit_codes(self) -> Mapping[int, int | None]:
        """As `Processes.exit_codes`."""
        return {rank.number: rank.exit_code for rank in self.started}

    def send(self, local_rank: int, number: int) -> None:
        """As `Processes.send`."""
        self.ranks[local_rank].deliver(number)

    def _main(self) -> None:
        done = threading.Event()
        outcome: list[object] = []

        def agent() -> None:
            try:
                outcome.append(self._agent())
            except Stopped as error:
                self.oversight.end(signal.SIGTERM)
                outcome.append(error)
            done.set()

        self.world.scheduler.spawn(self, agent, "agent")
        try:
            self.oversight.wait(done)
            if isinstance(outcome[0], Stopped):
                raise outcome[0]
            self.status, self.said = outcome[0]  # type: ignore[misc]
        except Stopped:
            left = [
                Left(rank.exit_code, rank.report, rank.step, rank.number in self.oversight.killed)
                for rank in self.started
            ]
            first, at_once = self.received.first, self.received.at_once
            self.status = stopped_status(first, left)
            self.said = stopped_message(first, at_once, left)
        self.exit_s = self.world.scheduler.now_s
        self.world.scheduler.say(f"{self.name} leaves with {self.status}: {self.said}")
        self.dead = True

    def _agent(self) -> tuple[int, str]:
        self.oversight.enter(idle=True)
        self.world.scheduler.sleep(self.world.random.uniform(0, 1))
        self.oversight.enter(idle=False)
        for rank in self.ranks:
            self.started.append(rank)
            rank.begin()
        while True:
            self.world.scheduler.sleep(TICK_S)
            self.oversight.look()
            codes = self.exit_codes()
            if any(codes.values()):
                failed = {rank: code for rank, code in codes.items() if code}
                reports = {rank: self.ranks[rank].report for rank in failed}
                steps = {rank: self.ranks[rank].step for rank in failed}
                verdict = find_cause(reports, steps, failed)
                return verdict.status, verdict.message
            if all(code == 0 for code in codes.values()):
                self.oversight.enter(idle=True)
                return 0, ""


def _write(run: Any, tensors: object, content: Mapping[str, Any]) -> None:
    world = run.writer_world
    world.scheduler.sleep(world.write_s)
    world.saves.append((run.name, content["step"], world.scheduler.now_s))
    world.scheduler.say(f"{run.name} has written step {content['step']}")


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Put the world's parts in the place of the machine's."""

    def leave(reason: str | None) -> None:
        if reason is None:
            world.current().die(130)
            raise Killed
        world.current().exit_now(f"{reason}; nothing was saved after the last checkpoint", True)

    def state_of(pid: int) -> str:
        (rank,) = (one for one in world.current().launcher.started if one.pid == pid)
        return "" if rank.dead else "T" if rank.stopped else "S"

    def open_run(*_: object) -> Any:
        run = world.current().open_run()
        run.writer_world = world
        return run

    def meet(*_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        world.current().launcher.group.meet(world.current())
        return {}, {}

    with pytest.MonkeyPatch.context() as patch:
        now = SimpleNamespace(monotonic=lambda: world.scheduler.now_s)
        patch.setattr(activity, "time", now)
        patch.setattr(ending, "_TICK_S", TICK_S)
        patch.setattr(ending, "_LOOK_S", TICK_S)
        patch.setattr(activity, "_Own", activity._Own)
        patch.setattr(rank_file, "_Own", rank_file._Own)
        patch.setenv("RANK", "0")
        patch.setattr(
            rank_file,
            "a_neighbour_died",
            lambda: any(one.dead for one in world.current().launcher.started),
        )
        patch.setattr(rank_file, "state_of", state_of)
        patch.setattr(stop_agreement, "_leave", leave)
        patch.setattr(loop, "open_run", open_run)
        patch.setattr(loop, "watched", lambda run, *_: world.current().watched(run))
        patch.setattr(loop, "resume_or_start", lambda *_: (0, {}))
        patch.setattr(loop, "announce_end", lambda *_: None)
        patch.setattr(loop, "set_learning_rate", lambda *_: None)
        patch.setattr(loop, "seed_model", lambda *_: None)
        patch.setattr(saving, "_refuse_spoiled", meet)
        patch.setattr(state, "capture", meet)
        patch.setattr(saving, "_write", _write)
        yield
