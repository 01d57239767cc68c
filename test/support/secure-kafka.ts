import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:tls';
import kafkajs from 'kafkajs';
import type { Admin } from 'kafkajs';
import { inject } from 'vitest';
import type { KafkaExtras } from '#dev/local-kafka.ts';
import { freePort } from '#dev/ports.ts';
import type { KafkaConnection, KafkaLogin } from '#src/outbox/kafka-connection.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { createAuthority } from './certificates.ts';
import type { Authority, Certificate } from './certificates.ts';
import { eventually } from './poll.ts';
import { createTestFolder } from './test-folder.ts';
import { startTestKafkaWith } from './test-servers.ts';
import type { TestServer } from './test-servers.ts';

/** The users of the broker. `orders` may do everything, `guest` nothing until an ACL allows it. */
export const PASSWORDS = { orders: 'orders-secret', guest: 'guest-secret' } as const;
const SCRAM = ['SCRAM-SHA-256', 'SCRAM-SHA-512'] as const;
const LOGIN_MODULES = 'org.apache.kafka.common.security';

/** The listeners of the broker. All but `login` and `relogin` need no login. */
const LISTENERS = {
  /** TLS, and a login. Its certificate can be changed. */
  login: 'SASL_SSL',
  /** The certificate names another host. */
  elsewhere: 'SSL',
  expired: 'SSL',
  /** Asks for the certificate of the client. */
  mutual: 'SSL',
} as const;
type ListenerName = keyof typeof LISTENERS;

/** A Kafka with TLS and logins, for one test file. */
export type SecureKafka = AsyncDisposable &
  Readonly<{
    server: TestServer;
    /** The addresses of a listener. */
    brokers: (listener: ListenerName | 'plaintext') => string[];
    /** Signs the certificates of the broker and of `mutual`'s clients. */
    authority: Authority;
    /** Where the files are. */
    folder: string;
    /** For a connection with the right certificate authority and the password of `orders`. */
    connection: (mechanism?: KafkaLogin['mechanism']) => KafkaConnection;
    /** Connected in plaintext, as a user who may do everything. */
    admin: Admin;
    /** Lets the listener `login` show another certificate from now on. */
    renew: (certificate: Certificate) => Promise<void>;
  }>;

export async function startSecureKafka(): Promise<SecureKafka> {
  const folder = await createTestFolder('certificates-');
  const authority = await createAuthority(folder.path, 'ca');
  const names = ['login', 'elsewhere', 'expired', 'mutual'] as const;
  const listeners: (KafkaExtras['listeners'][number] & { key: ListenerName })[] = [];
  for (const key of names) {
    listeners.push({
      key,
      name: key.toUpperCase(),
      protocol: LISTENERS[key],
      port: await freePort(),
    });
  }
  const good = await authority.sign('broker');
  const certificates: Record<ListenerName, Certificate> = {
    login: good,
    mutual: good,
    elsewhere: await authority.sign('broker', { hosts: 'DNS:kafka.example.com' }),
    expired: await authority.sign('broker', { days: -1 }),
  };
  const settings: Record<string, string> = {
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'super.users': 'User:ANONYMOUS;User:orders;User:CN=orders',
    // Each thread of a listener takes over a changed certificate on its own.
    'num.network.threads': '1',
    'listener.name.mutual.ssl.client.auth': 'required',
    'listener.name.mutual.ssl.truststore.type': 'PEM',
    'listener.name.mutual.ssl.truststore.certificates': await readFile(authority.caFile, 'utf8'),
    ...loginSettings(),
  };
  for (const name of names) Object.assign(settings, await keySettings(name, certificates[name]));
  const users = Object.entries(PASSWORDS);
  const formatOptions = users.flatMap(([name, password]) =>
    SCRAM.map((mechanism) => `--add-scram=${mechanism}=[name=${name},password=${password}]`),
  );
  const server = await startTestKafkaWith(inject('infra'), { listeners, settings, formatOptions });
  const [host = ''] = server.address.split(':');
  const brokers = (listener: ListenerName | 'plaintext') => {
    const port = listeners.find(({ key }) => key === listener)?.port;
    return [port === undefined ? server.address : `${host}:${port}`];
  };
  const { kafka, destroy } = createKafkaClient({ brokers: [server.address] }, { debug: () => {} });
  const admin = kafka.admin();
  await admin.connect();
  return {
    server,
    brokers,
    authority,
    folder: folder.path,
    connection: (mechanism = 'scram-sha-512') => ({
      brokers: brokers('login'),
      tls: { caFile: authority.caFile },
      sasl: { mechanism, username: 'orders', password: PASSWORDS.orders },
    }),
    admin,
    renew: async (certificate) => {
      const entries = Object.entries(await keySettings('login', certificate));
      const configEntries = entries.map(([name, value]) => ({ name, value }));
      const type = kafkajs.ConfigResourceTypes.BROKER;
      const resources = [{ type, name: '1', configEntries }];
      await admin.alterConfigs({ validateOnly: false, resources });
      const { fingerprint256 } = new X509Certificate(await readFile(certificate.certFile));
      await eventually(async () => (await shownBy(brokers('login'))) === fingerprint256);
    },
    [Symbol.asyncDispose]: async () => {
      destroy();
      await server.remove();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** The fingerprint of the certificate that a broker shows to a new connection. */
async function shownBy([broker = '']: readonly string[]): Promise<string> {
  const [host = '', port] = broker.split(':');
  const socket = connect({ host, port: Number(port), rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}

function loginSettings(): Record<string, string> {
  const users = Object.entries(PASSWORDS).map(([name, password]) => `user_${name}="${password}"`);
  const prefix = 'listener.name.login';
  const scram = SCRAM.map((mechanism) => [
    `${prefix}.${mechanism.toLowerCase()}.sasl.jaas.config`,
    `${LOGIN_MODULES}.scram.ScramLoginModule required;`,
  ]);
  return {
    [`${prefix}.sasl.enabled.mechanisms`]: ['PLAIN', ...SCRAM].join(),
    [`${prefix}.plain.sasl.jaas.config`]: `${LOGIN_MODULES}.plain.PlainLoginModule required ${users.join(' ')};`,
    ...Object.fromEntries(scram),
  };
}

/** Key and certificate of a listener. The text of PEM files, because a container cannot read the files. */
async function keySettings(
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
