import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';

/** What may wait for a slow reader; what comes on top is lost. */
const WAITING_BYTES_MAX = 1_048_576;
const RETRY_MS = 50;
/** What a process that ends waits for its reader. */
const FLUSH_MS_MAX = 500;
/** Of pino. */
const WARN = 40;

/** Where log lines go. It never blocks and never throws: what cannot be written is lost, and counted. */
export type LogSink = Readonly<{
  write(line: string): void;
  /** Lines lost since the start. */
  lost(): number;
  /** Waits, for half a second at most, until what was taken is written. */
  flushed(): Promise<void>;
}>;

/** Takes a whole line, now or a little later, or says no. */
type Output = Readonly<{ take(line: string): boolean; waitingBytes(): number }>;

/**
 * Writes to a file descriptor of this process, 1 in the service. A full disk, a pipe that nobody reads or
 * that is closed, and a terminal that is held cost lines only. Once lines are taken again, a line says how
 * many are missing; `render` makes it, and all others, fit for people.
 */
export function createLogSink(fd: number, render = (line: string) => line): LogSink {
  let lost = 0;
  let said = 0;
  const lose = () => {
    lost += 1;
  };
  const output = openOutput(fd, lose);

  const write = (line: string) => {
    if (lost > said) {
      const lines = lost - said;
      const notice = { level: WARN, time: Date.now(), lines, msg: 'log lines were lost' };
      if (!output.take(render(`${JSON.stringify(notice)}\n`))) return lose();
      said += lines;
    }
    if (!output.take(render(line))) lose();
  };

  return {
    write,
    lost: () => lost,
    flushed: async () => {
      const endsAt = performance.now() + FLUSH_MS_MAX;
      while (output.waitingBytes() > 0 && performance.now() < endsAt) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    },
  };
}

function openOutput(fd: number, lose: () => void): Output {
  const kind = fstatSync(fd);
  if (kind.isFIFO() || kind.isSocket())
    return toStream(fd === 2 ? process.stderr : process.stdout, lose);
  return toDescriptor(isatty(fd) ? unblocked(fd) : fd, lose);
}

/** Node writes to pipes and sockets as far as they take it at once, and keeps the rest. */
function toStream(stream: NodeJS.WriteStream, lose: () => void): Output {
  let isClosed = false;
  stream.on('error', () => {
    isClosed = true;
  });
  return {
    take: (line) => {
      if (isClosed || stream.writableLength + line.length > WAITING_BYTES_MAX) return false;
      stream.write(line, (error) => {
        if (error) lose();
      });
      return true;
    },
    waitingBytes: () => (isClosed ? 0 : stream.writableLength),
  };
}

/** A terminal opened once more: so that it may say no without doing so to others who write to it. */
function unblocked(fd: number): number {
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync(`/dev/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    return fd;
  }
}

/**
 * Writes at once, as far as that goes. A line that was begun is ended later, whatever happens: the next
 * one would else run into it.
 */
function toDescriptor(fd: number, lose: () => void): Output {
  let waiting: Buffer[] = [];
  let waitingBytes = 0;
  let isBegun = false;
  let timer: NodeJS.Timeout | undefined;

  const push = (bytes: Buffer) => {
    waiting.push(bytes);
    waitingBytes += bytes.length;
  };

  /** Whether the descriptor takes what is written to it, now or later. */
  const flush = (): boolean => {
    for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
      const written = writeNow(fd, first);
      if (written === 'failed') return false;
      if (written === 'later') {
        timer ??= setTimeout(retry, RETRY_MS).unref();
        return true;
      }
      waitingBytes -= written;
      isBegun = written < first.length;
      if (isBegun) waiting[0] = first.subarray(written);
      else waiting.shift();
    }
    return true;
  };

  const retry = () => {
    timer = undefined;
    if (flush()) return;
    const begun = isBegun ? waiting.slice(0, 1) : [];
    for (const _ of waiting.slice(begun.length)) lose();
    waiting = begun;
    waitingBytes = begun[0]?.length ?? 0;
  };

  return {
    take: (line) => {
      if (timer === undefined && !flush()) return false; // the rest of a line that was begun
      const bytes = Buffer.from(line);
      if (waitingBytes + bytes.length > WAITING_BYTES_MAX) return false;
      push(bytes);
      if (timer !== undefined || flush() || isBegun) return true;
      waiting.pop();
      waitingBytes -= bytes.length;
      return false;
    },
    waitingBytes: () => (timer === undefined ? 0 : waitingBytes),
  };
}

/** How many bytes were written; `later` where there is no room now. */
function writeNow(fd: number, bytes: Buffer): number | 'later' | 'failed' {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    const isFull = error instanceof Error && 'code' in error && error.code === 'EAGAIN';
    return isFull ? 'later' : 'failed';
  }
}
