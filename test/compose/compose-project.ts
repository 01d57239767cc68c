import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from '#dev/ports.ts';

const PROJECT = 'order-service-check';
const COMMAND_MS_MAX = 500_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const root = fileURLToPath(new URL('../..', import.meta.url));

/** The compose file of this checkout, under a project name and on ports of its own. */
export type ComposeProject = Readonly<{
  /** `host:port`, as seen from this machine. */
  broker: string;
  /** Runs `docker compose` with these arguments and returns its output. */
  compose(...args: string[]): Promise<string>;
  /** The ids of a service's containers, those that have ended included. */
  containers(service: string): Promise<string[]>;
  /** The URLs of a service's containers. `port` is the port inside the container. */
  urls(service: string, port: number): Promise<string[]>;
}>;

/** Removes what a killed run left behind. It starts nothing. */
export async function createComposeProject(): Promise<ComposeProject> {
  const kafkaPort = await freePort();
  const ports = {
    // Each replica gets any free port. Kafka's port must be known before it starts.
    PORT: '0',
    PROVIDER_SIMULATOR_PORT: '0',
    KAFKA_PORT: String(kafkaPort),
  };
  const compose = (...args: string[]) =>
    docker(['compose', '--project-name', PROJECT, ...args], { ...process.env, ...ports });
  const containers = async (service: string) => lines(await compose('ps', '--all', '-q', service));
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

/** Runs docker in the root of this checkout and returns its output. */
export async function docker(args: readonly string[], env = process.env): Promise<string> {
  const limits = { timeout: COMMAND_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
  const { stdout } = await promisify(execFile)('docker', args, { cwd: root, env, ...limits });
  return stdout;
}

function lines(text: string): string[] {
  return text.split('\n').flatMap((line) => line.trim() || []);
}
