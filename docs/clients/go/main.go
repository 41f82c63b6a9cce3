// Creates a task, moves it, is refused with a stale version, and reads the task's history from the stream.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	governance "example.com/hello/nanoclaw/governance/v1"
)

func main() {
	address, taskID := os.Args[1], os.Args[2]
	token, err := os.ReadFile(os.Getenv("NANOCLAW_TOKEN_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := governance.NewGovernanceServiceClient(connection)

	created, err := client.CreateTask(ctx, &governance.CreateTaskRequest{
		RequestId: taskID, Id: taskID, Title: "Say hello", TaskType: governance.TaskType_TASK_TYPE_DOC,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is in %s, version %d\n", created.Task.Id, created.Task.State, created.Task.Version)

	for number, state := range []governance.TaskState{
		governance.TaskState_TASK_STATE_TRIAGED, governance.TaskState_TASK_STATE_READY,
	} {
		_, err := client.TransitionTask(ctx, &governance.TransitionTaskRequest{
			RequestId: fmt.Sprintf("%s-%d", taskID, number), TaskId: taskID, ToState: state,
			ExpectedVersion: proto.Int64(1),
		})
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				fmt.Printf("refused: %s, the task is at version %s\n", info.Reason, info.Metadata["actual"])
			}
		}
	}

	watch, err := client.WatchTasks(ctx, &governance.WatchTasksRequest{
		Cursor: &governance.Cursor{Epoch: 1}, TaskId: taskID,
	})
	if err != nil {
		log.Fatal(err)
	}
	for {
		row, err := watch.Recv()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", row.Activity.Action, row.Activity.ToState)
		if row.Activity.ToState == governance.TaskState_TASK_STATE_TRIAGED {
			return
		}
	}
}
