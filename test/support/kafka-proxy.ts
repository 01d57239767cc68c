import { startTcpProxy } from './tcp-proxy.ts';
import type { Change, TcpProxy } from './tcp-proxy.ts';

/** The partition that can be made to look leaderless. Its number occurs nowhere else in the metadata. */
export const LEADERLESS = 7;

const PRODUCE_REQUEST = 0;
const FIND_COORDINATOR_REQUEST = 10;
const COORDINATOR_NOT_AVAILABLE = 15;
/** After the length, the number of the request and the time to wait. */
const COORDINATOR_ERROR_AT = 12;
const NO_ERROR = int16(0);
const LEADER_NOT_AVAILABLE = int16(5);
const NOT_LEADER = 6;
const LENGTH_BYTES = 4;
/** From the end of the topic's name in the response to a produce request: two counts, or one and a number. */
const PRODUCE_ERROR_AT = 8;

/** A proxy in front of a broker, which clients also use once they know the cluster. */
export type KafkaProxy = AsyncDisposable &
  Readonly<{
    brokers: string[];
    trap: TcpProxy['trap'];
    /** From now on no consumer group can be joined, as just after the start of a broker. */
    hideCoordinator(): void;
    /** Makes the partition 7 of the topic look as if its leader had died. */
    hideLeader(isHidden: boolean): void;
    /** The next batch is stored, and its response says that the broker does not lead. Resolves then. */
    denyNextBatch(): Promise<void>;
  }>;

/** Starts a proxy for the broker with this address. It changes what the broker says of `topic`. */
export async function startKafkaProxy(broker: string, topic: string): Promise<KafkaProxy> {
  const name = Buffer.from(topic);
  let isHidden = false;
  let hasCoordinator = true;
  let denied: PromiseWithResolvers<void> | undefined;
  const changeResponse = (original: Buffer, request: number | undefined): Buffer => {
    const response = advertise(original, broker, new URL(proxy.url).host);
    if (request === FIND_COORDINATOR_REQUEST && !hasCoordinator) {
      response.writeInt16BE(COORDINATOR_NOT_AVAILABLE, COORDINATOR_ERROR_AT);
    }
    const at = response.indexOf(name);
    if (at === -1) return response;
    const topicEnd = at + name.length;
    if (isHidden) hideLeaderIn(response, topicEnd);
    if (denied !== undefined && request === PRODUCE_REQUEST) {
      response.writeInt16BE(NOT_LEADER, topicEnd + PRODUCE_ERROR_AT);
      denied.resolve();
      denied = undefined;
    }
    return response;
  };
  const proxy = await startTcpProxy(`kafka://${broker}`, () => {
    /** The kinds of the requests without a response yet. Kafka responds in their order. */
    const waiting: number[] = [];
    return {
      request: eachFrame((request) => {
        waiting.push(request.readInt16BE(LENGTH_BYTES));
        return request;
      }),
      response: eachFrame((response) => changeResponse(response, waiting.shift())),
    };
  });
  return {
    brokers: [new URL(proxy.url).host],
    trap: proxy.trap,
    hideCoordinator: () => {
      hasCoordinator = false;
    },
    hideLeader: (shouldHide) => {
      isHidden = shouldHide;
    },
    denyNextBatch: () => {
      denied = Promise.withResolvers();
      return denied.promise;
    },
    [Symbol.asyncDispose]: proxy[Symbol.asyncDispose],
  };
}

/** Changes requests or responses one by one, however they are cut into packets. Each begins with its length. */
function eachFrame(change: Change): Change {
  let rest: Buffer = Buffer.alloc(0);
  return (data) => {
    rest = Buffer.concat([rest, data]);
    const frames: Buffer[] = [];
    while (rest.length >= LENGTH_BYTES) {
      const end = LENGTH_BYTES + rest.readInt32BE();
      if (rest.length < end) break;
      frames.push(change(rest.subarray(0, end)));
      rest = rest.subarray(end);
    }
    return Buffer.concat(frames);
  };
}

/** Replaces the address of the broker by another one. Clients connect to the one that they are told. */
function advertise(response: Buffer, broker: string, other: string): Buffer {
  const [from, to] = [addressOf(broker), addressOf(other)];
  const at = response.indexOf(from);
  if (at === -1) return response;
  const [before, after] = [response.subarray(0, at), response.subarray(at + from.length)];
  const changed = Buffer.concat([before, to, after]);
  const longerBy = to.length - from.length;
  changed.writeInt32BE(response.readInt32BE() + longerBy);
  // In old and new versions of the response, the byte before a host counts its letters.
  changed.writeUInt8(response.readUInt8(at - 1) + longerBy, at - 1);
  return changed;
}

/** A broker as it is in the metadata: its host, and then its port. */
function addressOf(broker: string): Buffer {
  const [host = '', port] = broker.split(':');
  return Buffer.concat([Buffer.from(host), int32(Number(port))]);
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
