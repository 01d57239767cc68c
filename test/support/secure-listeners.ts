import { readFile } from 'node:fs/promises';
import type { KafkaExtras } from '#dev/local-kafka.ts';
import { freePort } from '#dev/ports.ts';
import type { Authority, Certificate } from './certificates.ts';

/** The users of the broker. `orders` may do everything, `guest` nothing until an ACL allows it. */
export const PASSWORDS = { orders: 'orders-secret', guest: 'guest-secret' } as const;
const SCRAM = ['SCRAM-SHA-256', 'SCRAM-SHA-512'] as const;
const LOGIN_MODULES = 'org.apache.kafka.common.security';

/** The listeners besides the one in plaintext, with their security protocols. */
const PROTOCOLS = {
  /** TLS and a login. */
  login: 'SASL_SSL',
  /** The certificate names another host. */
  elsewhere: 'SSL',
  expired: 'SSL',
  /** Asks for the certificate of the client. */
  mutual: 'SSL',
} as const;
const NAMES = ['login', 'elsewhere', 'expired', 'mutual'] as const;
export type ListenerName = (typeof NAMES)[number];

/** Listeners with certificates of the authority, logins, and ACLs that are enforced. */
export async function secureListeners(authority: Authority): Promise<{
  extras: KafkaExtras;
  ports: Readonly<Record<ListenerName, number>>;
}> {
  const ports = {
    login: await freePort(),
    elsewhere: await freePort(),
    expired: await freePort(),
    mutual: await freePort(),
  };
  const good = await authority.sign('broker');
  const certificates: Record<ListenerName, Certificate> = {
    login: good,
    mutual: good,
    elsewhere: await authority.sign('broker', { hosts: 'DNS:kafka.example.com' }),
    expired: await authority.sign('broker', { days: -1 }),
  };
  const keys = await Promise.all(NAMES.map((name) => keySettings(name, certificates[name])));
  const settings = {
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'super.users': 'User:ANONYMOUS;User:orders;User:CN=orders',
    // Each thread of a listener takes over a changed certificate on its own.
    'num.network.threads': '1',
    'listener.name.mutual.ssl.client.auth': 'required',
    'listener.name.mutual.ssl.truststore.type': 'PEM',
    'listener.name.mutual.ssl.truststore.certificates': await readFile(authority.caFile, 'utf8'),
    ...loginSettings(),
  };
  const listeners = NAMES.map((name) => ({
    name: name.toUpperCase(),
    protocol: PROTOCOLS[name],
    port: ports[name],
  }));
  const formatOptions = Object.entries(PASSWORDS).flatMap(([name, password]) =>
    SCRAM.map((mechanism) => `--add-scram=${mechanism}=[name=${name},password=${password}]`),
  );
  return {
    extras: { listeners, settings: Object.assign(settings, ...keys), formatOptions },
    ports,
  };
}

function loginSettings(): Record<string, string> {
  const users = Object.entries(PASSWORDS).map(([name, password]) => `user_${name}="${password}"`);
  const prefix = 'listener.name.login';
  const plain = `${LOGIN_MODULES}.plain.PlainLoginModule required ${users.join(' ')};`;
  const scram = SCRAM.map((mechanism) => [
    `${prefix}.${mechanism.toLowerCase()}.sasl.jaas.config`,
    `${LOGIN_MODULES}.scram.ScramLoginModule required;`,
  ]);
  return {
    [`${prefix}.sasl.enabled.mechanisms`]: ['PLAIN', ...SCRAM].join(),
    [`${prefix}.plain.sasl.jaas.config`]: plain,
    ...Object.fromEntries(scram),
  };
}

/** Key and certificate of a listener. The text of PEM files, because a container cannot read the files. */
export async function keySettings(
  listener: ListenerName,
  { certFile, keyFile }: Certificate,
): Promise<Record<string, string>> {
  const prefix = `listener.name.${listener}.ssl.keystore`;
  return {
    [`${prefix}.type`]: 'PEM',
    [`${prefix}.certificate.chain`]: await readFile(certFile, 'utf8'),
    [`${prefix}.key`]: await readFile(keyFile, 'utf8'),
  };
}
