import { connect } from 'node:net';

/*
 * The load, as a process of its own: keep-alive connections that place orders one after another. It
 * speaks HTTP over plain sockets, since a full client would cost more time than the service does.
 *
 *   node bench/http-load.ts <port> <connections> <seconds> [token]
 *
 * Prints one line of JSON: { orders, failed, seconds, p50Ms, p99Ms }.
 */
const [port = 0, connections = 128, seconds = 10] = process.argv.slice(2, 5).map(Number);
const [token = ''] = process.argv.slice(5);

const body = JSON.stringify({
  customerId: 'bench',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
});
const request =
  `POST /v1/orders HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n` +
  (token === '' ? '' : `authorization: Bearer ${token}\r\n`) +
  `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

const latenciesMs: number[] = [];
let failed = 0;
const startedAt = performance.now();
const endsAt = startedAt + seconds * 1000;
await Promise.all(Array.from({ length: connections }, placeOrders));
const elapsed = (performance.now() - startedAt) / 1000;
latenciesMs.sort((a, b) => a - b);
const percentile = (share: number) =>
  Math.round((latenciesMs[Math.floor(latenciesMs.length * share)] ?? 0) * 10) / 10;
console.log(
  JSON.stringify({
    orders: latenciesMs.length,
    failed,
    seconds: elapsed,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
  }),
);

function placeOrders(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    let sentAt = 0;
    let received = '';
    const send = () => {
      if (performance.now() >= endsAt) {
        socket.end();
        resolve();
        return;
      }
      sentAt = performance.now();
      socket.write(request);
    };
    socket.setEncoding('latin1');
    socket.on('connect', send);
    socket.on('error', reject);
    socket.on('data', (chunk: string) => {
      received += chunk;
      if (!isComplete(received)) return;
      if (received.startsWith('HTTP/1.1 201')) latenciesMs.push(performance.now() - sentAt);
      else failed += 1;
      received = '';
      send();
    });
  });
}

function isComplete(response: string): boolean {
  const headersEnd = response.indexOf('\r\n\r\n');
  if (headersEnd < 0) return false;
  const length = /content-length: (\d+)/i.exec(response.slice(0, headersEnd))?.[1];
  return response.length >= headersEnd + 4 + Number(length ?? 0);
}
