/**
 * What a caller may be allowed to do. Each operation requires one scope. `personal-data:read` is required by none: it
 * adds personal data to the orders that a service may read.
 */
export const SCOPES = [
  'orders:read',
  'orders:write',
  'fulfilment:operate',
  'stock:read',
  'stock:write',
  'personal-data:read',
  'personal-data:erase',
] as const;

/** The scopes that a customer can make use of. */
export const CUSTOMER_SCOPES = ['orders:read', 'orders:write'] as const satisfies readonly Scope[];

export type Scope = (typeof SCOPES)[number];

/**
 * Who sent a request. Events name its id as their actor, and idempotency keys belong to it. A principal with a
 * `customerId` is a customer: it sees and changes only the orders of that customer. One without is a service: it
 * may act on all orders.
 */
export type Principal = Readonly<{
  id: string;
  scopes: ReadonlySet<string>;
  customerId?: string;
}>;

/** Everybody while AUTH=off. */
export const ANONYMOUS: Principal = { id: 'anonymous', scopes: new Set<string>(SCOPES) };

/** The caller of a public operation. It has no scope, and no order has an empty customerId. */
export const NOBODY: Principal = { id: 'nobody', scopes: new Set(), customerId: '' };

/**
 * Who may call an operation: everybody, or a principal with the scope. `customers` says whether that may be a
 * customer, who then sees and changes only its own orders.
 */
export type Access = 'public' | Readonly<{ scope: Scope; customers: boolean }>;

/**
 * Checks one kind of token.
 * @throws Problem `unauthenticated` if the token is not valid
 * @throws Problem `authentication_unavailable` if that cannot be checked now
 */
export type Authenticator = (token: string) => Promise<Principal>;
