"""
asyncflow: an in-process, durable workflow engine for asyncio.

Declare tasks, say what they need, and ``await engine.run(flow)``: as much at once as is safe, cancellation that reaches
running code, completed tasks reverted in reverse order when the flow fails, and a journal in SQLite from which a killed
process resumes.

A map of the package, lowest layer first:

- ``errors``, ``ids``, ``states``, ``outcomes``, ``messages``, ``codec``: the words that everything else uses
- ``graph`` declares, ``interfaces`` names the seams, ``context`` is what a body sees
- ``machine`` decides: events in, commands out, no await and no I/O
- ``runtime`` performs, ``stores`` remember, ``executors`` execute, ``observers`` watch
- ``engine`` chooses and starts
- ``testing`` helps to prove flows and stores; ``cli`` is the command line
"""

from asyncflow.codec import register
from asyncflow.context import Context, current
from asyncflow.engine import Engine
from asyncflow.errors import (
    AmbiguousProvider,
    AsyncflowError,
    AttemptAbandoned,
    AttemptInDoubt,
    CodecError,
    CorruptRecord,
    CycleError,
    DeadlineExceeded,
    DeclarationError,
    DuplicateName,
    EngineClosed,
    FlowError,
    FlowTimedOut,
    IllegalTransition,
    InputError,
    InputUnavailable,
    InternalError,
    LostTooOften,
    MissingElement,
    NotAJournal,
    NothingToTry,
    PlanChanged,
    RecordedError,
    ReferenceMisuse,
    ResourceMissing,
    RunBroken,
    RunBusy,
    RunCancelled,
    RunError,
    RunExists,
    RunFailed,
    RunNotFound,
    RunOvertaken,
    RunSuspended,
    RunUnfinished,
    SchemaTooNew,
    StoreError,
    StrayCancellation,
    TaskTimedOut,
    TransactionMisuse,
    TypeMismatch,
    UndecodableValue,
    UnkeepableValue,
    UnknownProvider,
    UnknownTarget,
    ValueNotAtHand,
    WrongDecision,
)
from asyncflow.graph.changes import Verdict
from asyncflow.graph.controller import (
    AlwaysRevert,
    AlwaysRevertAll,
    Controller,
    Decision,
    ForEach,
    ForEachInput,
    History,
    PastAttempt,
    Times,
)
from asyncflow.graph.decorator import task
from asyncflow.graph.defaults import default_for
from asyncflow.graph.factory import factory
from asyncflow.graph.family import map_task, reduce_task
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.policy import Exponential, Fixed, Limit, Retry
from asyncflow.graph.signature import resource
from asyncflow.graph.task import Task
from asyncflow.interfaces import Circumstances, Happening, Observer, RunInfo
from asyncflow.outcomes import Cancelled, Failure, Outcome, Success, TimedOut
from asyncflow.runtime.handle import Results, Run, TaskView
from asyncflow.runtime.report import FlowReport, RunReport, TaskReport
from asyncflow.runtime.statistics import Statistics
from asyncflow.runtime.stepper import Step
from asyncflow.states import RunState, TaskState
from asyncflow.stores.doctor import Remark, doctor
from asyncflow.stores.verify import Finding, verify

__version__ = "0.1.0"

__all__ = [
    "AlwaysRevert",
    "AlwaysRevertAll",
    "AmbiguousProvider",
    "AsyncflowError",
    "AttemptAbandoned",
    "AttemptInDoubt",
    "Cancelled",
    "Circumstances",
    "CodecError",
    "Context",
    "Controller",
    "CorruptRecord",
    "CycleError",
    "DeadlineExceeded",
    "Decision",
    "DeclarationError",
    "DuplicateName",
    "Engine",
    "EngineClosed",
    "Exponential",
    "Failure",
    "Finding",
    "Fixed",
    "Flow",
    "FlowError",
    "FlowReport",
    "FlowTimedOut",
    "ForEach",
    "ForEachInput",
    "Happening",
    "History",
    "IllegalTransition",
    "InputError",
    "InputUnavailable",
    "InternalError",
    "Limit",
    "LostTooOften",
    "MissingElement",
    "NotAJournal",
    "NothingToTry",
    "Observer",
    "Outcome",
    "PastAttempt",
    "PlanChanged",
    "RecordedError",
    "ReferenceMisuse",
    "Remark",
    "ResourceMissing",
    "Results",
    "Retry",
    "Run",
    "RunBroken",
    "RunBusy",
    "RunCancelled",
    "RunError",
    "RunExists",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "RunOvertaken",
    "RunReport",
    "RunState",
    "RunSuspended",
    "RunUnfinished",
    "SchemaTooNew",
    "Statistics",
    "Step",
    "StoreError",
    "StrayCancellation",
    "Success",
    "Task",
    "TaskReport",
    "TaskState",
    "TaskTimedOut",
    "TaskView",
    "TimedOut",
    "Times",
    "TransactionMisuse",
    "TypeMismatch",
    "UndecodableValue",
    "UnkeepableValue",
    "UnknownProvider",
    "UnknownTarget",
    "ValueNotAtHand",
    "Verdict",
    "WrongDecision",
    "current",
    "default_for",
    "doctor",
    "factory",
    "flow",
    "graph",
    "linear",
    "map_task",
    "reduce_task",
    "register",
    "resource",
    "task",
    "unordered",
    "verify",
]
