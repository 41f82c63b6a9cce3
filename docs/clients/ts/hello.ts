// Creates a task, moves it, is refused with a stale version, and reads the task's history from the stream.
import { readFileSync } from "node:fs";
import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import {
  CreateTaskRequest,
  Cursor,
  GovernanceServiceClient,
  TaskState,
  taskStateToJSON,
  TaskType,
  type TransitionTaskResponse,
  TransitionTaskRequest,
  WatchTasksRequest,
  type WatchTasksResponse,
} from "./gen/nanoclaw/governance/v1/governance.js";

const [address, taskId] = process.argv.slice(2);
const metadata = new Metadata();
metadata.set("authorization", `Bearer ${readFileSync(process.env.NANOCLAW_TOKEN_FILE!, "utf8").trim()}`);
const governance = new GovernanceServiceClient(address, credentials.createInsecure());

function reasonOf(error: ServiceError): string {
  const [details] = error.metadata.get("grpc-status-details-bin");
  for (const detail of Status.decode(details as Buffer).details) {
    if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) {
      const info = ErrorInfo.decode(detail.value);
      return `${info.reason}, the task is at version ${info.metadata.actual}`;
    }
  }
  return error.message;
}

const create = CreateTaskRequest.create({
  requestId: taskId, id: taskId, title: "Say hello", taskType: TaskType.TASK_TYPE_DOC,
});
const created = await new Promise<string>((resolve, reject) =>
  governance.createTask(create, metadata, (error, answer) =>
    error ? reject(error) : resolve(`${answer.task!.id} is in ${taskStateToJSON(answer.task!.state)}, version ${answer.task!.version}`),
  ),
);
console.log(created);

for (const [number, toState] of [TaskState.TASK_STATE_TRIAGED, TaskState.TASK_STATE_READY].entries()) {
  const move = TransitionTaskRequest.create({ requestId: `${taskId}-${number}`, taskId, toState, expectedVersion: 1 });
  await new Promise<TransitionTaskResponse | void>((resolve) =>
    governance.transitionTask(move, metadata, (error, answer) =>
      resolve(error ? console.log(`refused: ${reasonOf(error)}`) : answer),
    ),
  );
}

const cursor = Cursor.create({ epoch: 1 });
const watch = governance.watchTasks(WatchTasksRequest.create({ cursor, taskId }), metadata);
for await (const row of watch as AsyncIterable<WatchTasksResponse>) {
  console.log(`${row.activity!.action}: ${taskStateToJSON(row.activity!.toState)}`);
  if (row.activity!.toState === TaskState.TASK_STATE_TRIAGED) break;
}
watch.on("error", () => {}); // that we cancel it is told as an error
watch.cancel();
governance.close();
