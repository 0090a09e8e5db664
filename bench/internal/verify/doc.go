// Package verify runs people who talk, change their minds, come and go, and
// writes down all that their clients send and see, for package check to judge.
//
// A seed decides who they are and what they do in which order; when it happens
// is the system's doing. Each device is a client as an application should have
// it: it syncs after each log-in, where it is told lagged and where it sees a
// hole, and sends again, under the same client_id, what was not acknowledged.
// Nothing here judges.
package verify
