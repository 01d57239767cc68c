import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

/**
 * What happens to the connection on which the words of a trap pass:
 * - `cutBefore`: the server never gets them;
 * - `cutResponse`: the server gets them and does its work, but its response is lost;
 * - `hold`: the server gets them when the test releases them, even if the client has left meanwhile.
 */
export type Fault = 'cutBefore' | 'cutResponse' | 'hold';

/** Goes off once, on the first data from a client that contains `words`. */
export type Trap = Readonly<{
  /** Resolves when the trap has gone off. With `cutResponse`, resolves when the response is lost. */
  sprung: Promise<void>;
  /** Sends the held data on. */
  release(): void;
  /** With `hold`: resolves when the server has done its work and closed the connection. */
  closed: Promise<void>;
}>;

/** A proxy between a client and a server. It passes everything on until a trap is set. */
export type TcpProxy = AsyncDisposable &
  Readonly<{
    /** The URL of the server with the address of the proxy. */
    url: string;
    trap(words: string, fault: Fault): Trap;
    /** Sends new connections to another server. Open connections stay as they are. */
    leadTo(serverUrl: string): void;
    /** Closes every connection. */
    cut(): void;
  }>;

/** Changes what one side sends before the other gets it. What it returns later is missing at first. */
export type Change = (data: Buffer) => Buffer;

/** What is changed on one connection. */
export type Changes = Readonly<{ request: Change; response: Change }>;

const unchanged: Change = (data) => data;
const noChanges = () => ({ request: unchanged, response: unchanged });

type SetTrap = Readonly<{
  words: string;
  fault: Fault;
  spring(): void;
  released: Promise<void>;
  close(): void;
}>;

export async function startTcpProxy(
  serverUrl: string,
  changesOfConnection: () => Changes = noChanges,
): Promise<TcpProxy> {
  let target = new URL(serverUrl);
  const traps = new Set<SetTrap>();
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    }
    join(client, upstream, traps, changesOfConnection());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: Object.assign(new URL(serverUrl), { host: `127.0.0.1:${portOf(server.address())}` }).href,
    trap: (words, fault) => {
      const sprung = Promise.withResolvers<void>();
      const released = Promise.withResolvers<void>();
      const closed = Promise.withResolvers<void>();
      const { resolve: spring } = sprung;
      traps.add({ words, fault, spring, released: released.promise, close: closed.resolve });
      return { sprung: sprung.promise, release: released.resolve, closed: closed.promise };
    },
    leadTo: (url) => {
      target = new URL(url);
    },
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function join(client: Socket, upstream: Socket, traps: Set<SetTrap>, changes: Changes): void {
  let held: Buffer[] | undefined;
  const letGo = () => {
    for (const data of held ?? []) upstream.write(data);
    held = undefined;
    if (client.destroyed) upstream.end();
  };
  client.on('data', (sent: Buffer) => {
    const data = changes.request(sent);
    if (held) {
      held.push(data);
      return;
    }
    const trap = [...traps].find(({ words }) => data.includes(words));
    if (!trap) {
      upstream.write(data);
      return;
    }
    traps.delete(trap);
    if (trap.fault === 'hold') {
      held = [data];
      void trap.released.then(letGo);
      upstream.on('close', trap.close);
      trap.spring();
      return;
    }
    const cut = () => {
      client.resetAndDestroy(); // a reset is not taken for an orderly end
      upstream.destroy();
      trap.spring();
    };
    if (trap.fault === 'cutBefore') {
      cut();
      return;
    }
    upstream.removeAllListeners('data');
    upstream.once('data', cut);
    upstream.write(data);
  });
  upstream.on('data', (data: Buffer) => void client.write(changes.response(data)));
  upstream.on('close', () => client.destroy());
  client.on('close', () => {
    if (!held) upstream.destroy();
  });
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === 'string') throw new Error('there is no port');
  return address.port;
}
