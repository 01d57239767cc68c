import { describe, expect, test } from 'vitest';
import { contact, paymentMethod, shippingAddress } from '#src/orders/personal-data.ts';

const ADDRESS = { name: 'Ada', line1: '1 Street', postalCode: '1', city: 'Berlin', country: 'DE' };

describe('a shipping address', () => {
  test.each([
    {},
    { line2: 'Flat 2', region: 'BE' },
    { name: '\u200fשלום' },
    { name: '李雷' },
    { country: 'XK' },
    { name: 'x'.repeat(200) },
  ])('may have %j', (part) => {
    expect(shippingAddress.parse({ ...ADDRESS, ...part })).toEqual({ ...ADDRESS, ...part });
  });

  test.each([
    { name: '' },
    { name: 'x'.repeat(201) },
    { name: 'Ada\nExample' },
    { line1: 'a\u2028b' },
    { city: 'a\u0000b' },
    { city: '\ud800' },
    { country: 'UK' },
    { country: 'de' },
    { country: 'DEU' },
    { region: null },
    { postalCode: 10115 },
    { street: 'x' },
  ])('may not have %j', (part) => {
    expect(shippingAddress.safeParse({ ...ADDRESS, ...part }).success).toBe(false);
  });

  test.each(['name', 'line1', 'postalCode', 'city', 'country'])('needs %s', (field) => {
    expect(shippingAddress.safeParse({ ...ADDRESS, [field]: undefined }).success).toBe(false);
  });
});

describe('a contact', () => {
  test.each([
    { email: 'ada@example.com' },
    { email: 'адa+x@пример.рф' },
    { phone: '+49 (30) 123-4.5/6' },
    { email: 'a@b', phone: '110' },
  ])('may be %j', (given) => {
    expect(contact.parse(given)).toEqual(given);
  });

  test.each([
    {},
    { email: 'ada' },
    { email: 'a@b@c' },
    { email: 'a b@c' },
    { email: `${'a'.repeat(253)}@b` },
    { phone: 'call me' },
    { phone: '+1+1' },
    { phone: '1' },
    { email: 'a@b', fax: '1' },
    { email: null },
  ])('may not be %j', (given) => {
    expect(contact.safeParse(given).success).toBe(false);
  });
});

test('a payment method is any text of 1 to 255 characters', () => {
  expect(paymentMethod.parse('tok_1')).toBe('tok_1');
  for (const wrong of ['', 'x'.repeat(256), 1, 'a\u0000']) {
    expect(paymentMethod.safeParse(wrong).success).toBe(false);
  }
});
