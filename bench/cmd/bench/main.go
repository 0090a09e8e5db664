// Command bench loads a running Starling and says how long deliveries take and
// what was lost, repeated or out of order.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
