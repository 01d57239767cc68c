import { Agent, get } from 'node:http';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { setPriority } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';

/*
 * The peers of bench/abuse.ts that break the rules, as a process of its own, which never closes a connection:
 *
 * - idle ones: a request each, and then nothing;
 * - holders: half a header, half a body or more of a refused body, a byte a second;
 * - pipeliners: packets of 2,000 requests for the metrics and the documentation, as fast as the service reads. They
 *   come again when they are cut, each from an address of its own, as a trusted proxy would say.
 *
 *   node bench/abusers.ts <port> <idle> <holders> <pipeliners>
 *
 * It runs at the lowest priority, because real peers do not use the processors of the service. It prints `ready`
 * when the idle ones are connected.
 */
const [port = 0, idle = 0, holders = 0, pipeliners = 0] = process.argv.slice(2).map(Number);
const AT_ONCE = 50;
const DRIP_EVERY_MS = 1_000;
const COME_AGAIN_MS = 10;
const PATHS = ['/metrics', '/docs', '/openapi.json', '/docs/problems', '/docs/swagger-ui.css', '/'];
const JSON_BODY = 'content-type: application/json\r\ncontent-length: 5000\r\n\r\n{';
const BEGINNINGS = [
  'GET /livez HTTP/1.1\r\nhost: a\r\nx: ',
  `POST /v1/orders HTTP/1.1\r\nhost: a\r\n${JSON_BODY}`,
  `POST /nope HTTP/1.1\r\nhost: a\r\n${JSON_BODY}`,
  'POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 5000\r\n\r\n{',
];

setPriority(19);
for (let left = idle; left > 0; left -= AT_ONCE) {
  await Promise.all(Array.from({ length: Math.min(left, AT_ONCE) }, becomeIdle));
}
console.log('ready');
for (let index = 0; index < holders; index += 1) hold(index);
for (let index = 0; index < pipeliners; index += 1) pipeline(index);
await delay(2 ** 31 - 1);

/** Resolves when the response has come. The connection stays open. */
function becomeIdle(): Promise<void> {
  return new Promise((resolve, reject) => {
    const agent = new Agent({ keepAlive: true, timeout: 0 });
    get({ agent, port, host: '127.0.0.1', path: '/livez' }, (response) => {
      response.resume().on('end', resolve);
    }).on('error', reject);
  });
}

/** Sends the beginning of a request, then a byte a second. It ignores that the other side has ended. */
function hold(index: number): void {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => undefined).resume();
  socket.write(BEGINNINGS[index % BEGINNINGS.length] ?? '');
  const drip = setInterval(() => socket.write('a'), DRIP_EVERY_MS);
  socket.on('close', () => clearInterval(drip));
}

function pipeline(index: number): void {
  const path = PATHS[index % PATHS.length] ?? '';
  const from = `203.0.113.${index % 256}`;
  const packet = `GET ${path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: ${from}\r\n\r\n`.repeat(
    2_000,
  );
  const comeIn = (): void => {
    const socket: Socket = connect({ port, host: '127.0.0.1' });
    socket.on('error', () => undefined).resume();
    const send = () => void socket.write(packet);
    socket.on('connect', send).on('drain', send);
    socket.on('close', () => setTimeout(comeIn, COME_AGAIN_MS));
  };
  comeIn();
}
