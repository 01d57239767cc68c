import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { ISocketFactoryArgs } from 'kafkajs';
import { toHost } from './broker-address.ts';

const KEEP_ALIVE_DELAY_MS = 10_000;

/**
 * Sockets with a kill switch. kafkajs keeps sending after `disconnect()` (its issue 1174): only with its
 * sockets gone, and no new ones to be had, is a producer surely silent.
 */
export function createCuttableSockets() {
  const sockets = new Set<Socket>();
  let isCut = false;

  return {
    open: ({ host, port, onConnect }: ISocketFactoryArgs): Socket => {
      if (isCut) throw new Error('the connection was cut');
      const socket = connect({ host: toHost(host), port, noDelay: true }, onConnect);
      socket.setKeepAlive(true, KEEP_ALIVE_DELAY_MS);
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      return socket;
    },
    /** Destroys every socket with what it has not sent yet, and refuses new ones for ever. */
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy(new Error('the connection was cut'));
    },
  };
}

export type CuttableSockets = ReturnType<typeof createCuttableSockets>;
