const LITERAL = '.ipv6-literal.net';

/**
 * The address of a broker as kafkajs can take it. It cuts at every colon (its issue 1589), so an IPv6
 * address is written as a name: `[::1]:9092` becomes `--1.ipv6-literal.net:9092`.
 */
export function toKafkaAddress(broker: string): string {
  const [, address, port] = /^\[(.+)\]:(\d+)$/.exec(broker) ?? [];
  return address === undefined ? broker : `${address.replaceAll(':', '-')}${LITERAL}:${port}`;
}

/** The host to connect to, for one that kafkajs has from `toKafkaAddress` or from a broker. */
export function toHost(host: string): string {
  return host.endsWith(LITERAL) ? host.slice(0, -LITERAL.length).replaceAll('-', ':') : host;
}
