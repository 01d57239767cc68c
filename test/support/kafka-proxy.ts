import { startTcpProxy } from './tcp-proxy.ts';
import type { TcpProxy } from './tcp-proxy.ts';

/** The partition that can be made to look leaderless. Its number occurs nowhere else in the metadata. */
export const LEADERLESS = 7;

const PRODUCE_REQUEST = 0;
const NO_ERROR = int16(0);
const LEADER_NOT_AVAILABLE = int16(5);
const NOT_LEADER = 6;
/** From the end of the topic's name in the response to a produce request: two counts, or one and a number. */
const PRODUCE_ERROR_AT = 8;

/** A proxy in front of a broker, which clients also use once they know the cluster. */
export type KafkaProxy = AsyncDisposable &
  Readonly<{
    brokers: string[];
    trap: TcpProxy['trap'];
    /** Makes the partition 7 of the topic look as if its leader had died. */
    hideLeader(isHidden: boolean): void;
    /** The next batch is stored, and its response says that the broker does not lead. Resolves then. */
    denyNextBatch(): Promise<void>;
  }>;

/** Starts a proxy for the broker with this address. It changes what the broker says of `topic`. */
export async function startKafkaProxy(broker: string, topic: string): Promise<KafkaProxy> {
  const [host = '', port = ''] = broker.split(':');
  const name = Buffer.from(topic);
  const state = { port: 0, isHidden: false, isProducing: false };
  let denied: PromiseWithResolvers<void> | undefined;
  const proxy = await startTcpProxy(
    `kafka://${broker}`,
    (request) => {
      state.isProducing = request.readInt16BE(4) === PRODUCE_REQUEST;
      return request;
    },
    (response) => {
      advertise(response, Buffer.from(host), Number(port), state.port);
      const at = response.indexOf(name);
      if (at === -1) return response;
      const topicEnd = at + name.length;
      if (state.isHidden) hideLeaderIn(response, topicEnd);
      if (denied !== undefined && state.isProducing) {
        response.writeInt16BE(NOT_LEADER, topicEnd + PRODUCE_ERROR_AT);
        denied.resolve();
        denied = undefined;
      }
      return response;
    },
  );
  state.port = Number(new URL(proxy.url).port);
  return {
    brokers: [`${host}:${state.port}`],
    trap: proxy.trap,
    hideLeader: (isHidden) => {
      state.isHidden = isHidden;
    },
    denyNextBatch: () => {
      denied = Promise.withResolvers();
      return denied.promise;
    },
    [Symbol.asyncDispose]: proxy[Symbol.asyncDispose],
  };
}

/** Replaces the port of the broker by the proxy's. */
function advertise(response: Buffer, host: Buffer, port: number, proxyPort: number): void {
  const address = Buffer.concat([host, int32(port)]);
  const at = response.indexOf(address);
  if (at !== -1) response.writeInt32BE(proxyPort, at + host.length);
}

/** In the metadata a partition begins with its error, its number and its leader. */
function hideLeaderIn(response: Buffer, from: number): void {
  const at = response.indexOf(Buffer.concat([NO_ERROR, int32(LEADERLESS)]), from);
  if (at === -1) return;
  LEADER_NOT_AVAILABLE.copy(response, at);
  response.writeInt32BE(-1, at + 6);
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
