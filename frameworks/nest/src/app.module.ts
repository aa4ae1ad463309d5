// The application: sessions and the shop.

import { Module } from '@nestjs/common'
import { forNest } from 'keepsake/nest'
import { manager } from './sessions.js'
import { ShopController } from './shop.controller.js'

@Module({ imports: [forNest(manager)], controllers: [ShopController] })
export class AppModule {}
