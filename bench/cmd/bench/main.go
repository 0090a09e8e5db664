// Command bench loads a running Starling and says how long deliveries take and
// what was lost, repeated or out of order.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:])) }
