/*
 * Loaded before the service. SIGUSR2 sets the clock of the process an hour ahead, or back to the real time.
 */
const Real = globalThis.Date;
let aheadMs = 0;

globalThis.Date = class extends Real {
  constructor(...args) {
    if (args.length === 0) super(Real.now() + aheadMs);
    else super(...args);
  }

  static now() {
    return Real.now() + aheadMs;
  }
};

process.on('SIGUSR2', () => {
  aheadMs = aheadMs === 0 ? 3_600_000 : 0;
});
