/** Migrated, and copied for each test. */
export const TEMPLATE_DATABASE = 'orders_template';

/** The same server and user, in another database. */
export function urlOfDatabase(url: string, database: string): string {
  return Object.assign(new URL(url), { pathname: `/${database}` }).href;
}
