import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from '#dev/ports.ts';

const PROJECT = 'order-service-check';
const COMMAND_MS_MAX = 500_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const root = fileURLToPath(new URL('../..', import.meta.url));

/** This checkout's compose file, brought up under a name and on ports of its own. */
export type ComposeProject = Readonly<{
  /** As seen from this machine. */
  broker: string;
  /** Runs `docker compose` with these arguments and answers what it printed. */
  compose(...args: string[]): Promise<string>;
  /** Ids of a service's containers, running ones. */
  containers(service: string): Promise<string[]>;
  /** URLs of a service's containers, by the port that they listen on inside. */
  urls(service: string, port: number): Promise<string[]>;
}>;

/** Removes what a killed run has left, and starts nothing yet. */
export async function createComposeProject(): Promise<ComposeProject> {
  const kafkaPort = await freePort();
  const env = {
    ...process.env,
    // Any free port, for each replica another one. Kafka's must be known before it starts.
    PORT: '0',
    PROVIDER_SIMULATOR_PORT: '0',
    KAFKA_PORT: String(kafkaPort),
  };
  const compose = (...args: string[]) =>
    docker(['compose', '--project-name', PROJECT, ...args], env);
  const containers = async (service: string) => lines(await compose('ps', '-q', service));
  await compose('down', '--volumes', '--remove-orphans');
  return {
    broker: `localhost:${kafkaPort}`,
    compose,
    containers,
    urls: async (service, port) => {
      const ids = await containers(service);
      const published = await Promise.all(ids.map((id) => docker(['port', id, String(port)])));
      return published.flatMap(lines).map((address) => `http://${address}`);
    },
  };
}

/** Runs docker from the root of this checkout and answers what it printed. */
export async function docker(args: readonly string[], env = process.env): Promise<string> {
  const limits = { timeout: COMMAND_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
  const { stdout } = await promisify(execFile)('docker', args, { cwd: root, env, ...limits });
  return stdout;
}

function lines(text: string): string[] {
  return text.split('\n').flatMap((line) => line.trim() || []);
}
