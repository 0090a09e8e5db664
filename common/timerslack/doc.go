// Package timerslack lets the kernel be late with this process's timers.
//
// Go's monitor thread (sysmon) asks to sleep for 20 µs again and again as long
// as there is some work, thousands of times a second. With the kernel's default
// slack of 50 µs each of them is a wake-up that takes a core from whoever is at
// work: an eighth of the CPU of a busy server, a quarter of that of a bench that
// is mostly idle. More slack makes them fewer (docs/decisions/011).
//
// Raise is called once, first in main. Only Linux has the notion; elsewhere it
// does nothing. _STARLING_TIMERSLACK=1 in the environment switches it off.
package timerslack
