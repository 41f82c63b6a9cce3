"""Creates a task, moves it, is refused with a stale version, and reads the task's history from the stream."""

import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc

address, task_id = sys.argv[1], sys.argv[2]
with open(os.environ["NANOCLAW_TOKEN_FILE"]) as file:
    metadata = (("authorization", f"Bearer {file.read().strip()}"),)

with grpc.insecure_channel(address) as channel:
    governance = governance_pb2_grpc.GovernanceServiceStub(channel)
    task = governance.CreateTask(
        pb.CreateTaskRequest(request_id=task_id, id=task_id, title="Say hello", task_type=pb.TASK_TYPE_DOC),
        metadata=metadata,
    ).task
    print(f"{task.id} is in {pb.TaskState.Name(task.state)}, version {task.version}")
    for number in (1, 2):
        try:
            governance.TransitionTask(
                pb.TransitionTaskRequest(
                    request_id=f"{task_id}-{number}",
                    task_id=task_id,
                    to_state=pb.TASK_STATE_TRIAGED if number == 1 else pb.TASK_STATE_READY,
                    expected_version=1,
                ),
                metadata=metadata,
            )
        except grpc.RpcError as error:
            info = error_details_pb2.ErrorInfo()
            for detail in rpc_status.from_call(error).details:
                if detail.Unpack(info):
                    print(f"refused: {info.reason}, the task is at version {info.metadata['actual']}")
    watch = governance.WatchTasks(
        pb.WatchTasksRequest(cursor=pb.Cursor(epoch=1), task_id=task_id), metadata=metadata, timeout=10
    )
    for row in watch:
        print(f"{row.activity.action}: {pb.TaskState.Name(row.activity.to_state)}")
        if row.activity.to_state == pb.TASK_STATE_TRIAGED:
            break
    watch.cancel()
