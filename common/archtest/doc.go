// Package archtest holds no code, only tests: the rules of the tree that a
// compiler does not check. Who may import whom, what every package must have,
// where contexts and goroutines may begin. The depguard rules of .golangci.yml
// say the same of direct imports at once in the editor; here they hold for
// whole dependency graphs, too.
package archtest
