import { isIPv6 } from 'node:net';

/** What a server that listens on every address of a machine is reached by, from there. */
const LOOPBACK: Readonly<Record<string, string>> = {
  '0.0.0.0': '127.0.0.1',
  '[::]': '[::1]',
  '[::ffff:0:0]': '127.0.0.1',
};

/** An address may be written in brackets, as in a URL; listening takes it without. */
export function withoutBrackets(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

/**
 * The URL of a server on this machine that listens on the host and the port. An IPv6 address stands in
 * brackets, and "every address" becomes the loopback address.
 */
export function localUrl(host: string, port: number): string {
  // A URL has no room for the zone of a link-local address (`fe80::1%eth0`).
  const [address = ''] = host.split('%');
  const written = isIPv6(address) ? `[${address}]` : host;
  const url = `http://${written}:${port}`;
  if (!URL.canParse(url)) return url;
  const { hostname } = new URL(url);
  return `http://${LOOPBACK[hostname] ?? hostname}:${port}`;
}
