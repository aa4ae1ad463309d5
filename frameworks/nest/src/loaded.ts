// An application that opens the session of every request, for Nest's own @Session().

import { Controller, Module, Post, Session } from '@nestjs/common'
import type { Session as VisitorSession } from 'keepsake'
import { forNest } from 'keepsake/nest'
import { type Fields, manager } from './sessions.js'

@Controller()
class CartController {
  @Post('cart')
  add(@Session() s: VisitorSession<Fields>) {
    s.update('cart', (cart = []) => [...cart, 'tea'])
    return s.get('cart')
  }
}

@Module({ imports: [forNest(manager, { load: true })], controllers: [CartController] })
export class LoadedModule {}
