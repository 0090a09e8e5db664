// A Task runs its work one at a time: a call during a run asks for one more
// after it, however many there are. What fails is tried again after growing
// waits, as long as may() says so.

const FIRST = 500, MOST = 8000; // ms of waits

export class Task {
  constructor(work, may) {
    this.work = work;
    this.may = may;
    this.wanted = this.running = false;
  }

  async run() {
    this.wanted = true;
    if (this.running) return;
    this.running = true;
    for (let wait = FIRST; this.wanted && this.may(); ) {
      this.wanted = false;
      try {
        await this.work();
        wait = FIRST;
      } catch (e) {
        console.warn(e);
        this.wanted = true;
        await new Promise((go) => setTimeout(go, wait * (0.5 + Math.random())));
        wait = Math.min(2 * wait, MOST);
      }
    }
    this.running = false;
  }
}
