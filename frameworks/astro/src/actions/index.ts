import { defineAction } from 'astro:actions'
import { z } from 'astro/zod'
import { session } from 'keepsake'
import type { Fields } from '../sessions.ts'

export const server = {
  add: defineAction({
    accept: 'form',
    input: z.object({ item: z.string() }),
    async handler({ item }, context) {
      const s = await session<Fields>(context)
      s.update('cart', (cart = []) => [...cart, item])
      return s.fields.cart?.length ?? 0
    },
  }),
}
