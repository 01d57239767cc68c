/** The queue is full, or the command's own share of it; or it waited too long. Nothing was written. */
export class CommandOverloaded extends Error {
  constructor() {
    super('too many commands are waiting to be committed');
    this.name = 'CommandOverloaded';
  }
}

/** The database did not take the command. Nothing was written. */
export class StoreUnavailable extends Error {
  constructor(cause: unknown) {
    super('the database did not take the command', { cause });
    this.name = 'StoreUnavailable';
  }
}

/** The clock of this process is wrong, so it records nothing. Nothing was written. */
export class ClockOff extends StoreUnavailable {
  constructor() {
    super('the clock of this process is far off that of the database');
    this.name = 'ClockOff';
  }
}

/** Somebody else kept a row locked that the command needs. Nothing was written. */
export class RowsLocked extends StoreUnavailable {
  constructor() {
    super('somebody else holds a lock on a row that the command needs');
    this.name = 'RowsLocked';
  }
}

/** The database did not answer: the command may have been written, now or a little later. */
export class CommandUncertain extends Error {
  constructor(cause: unknown) {
    super('the outcome of the command is unknown', { cause });
    this.name = 'CommandUncertain';
  }
}

/** Somebody else changed the stream at every attempt. Nothing was written. */
export class VersionConflict extends Error {
  constructor() {
    super('the stream was changed by others at every attempt');
    this.name = 'VersionConflict';
  }
}
