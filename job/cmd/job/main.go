// Command job runs the job tier alone.
package main

import (
	"context"
	"os"

	"github.com/starling-im/starling/internal/process"
)

func main() {
	os.Exit(process.Main(context.Background(), "job", &program{}, process.OS()))
}
